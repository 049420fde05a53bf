"""One row: its adapters trained (once, and continued after a kill), its pictures made and judged.

A run is a folder: `adapters/<training>/` as `train adapters` leaves it, `encoded/` that they share, and `rows/` with a
record and the first pictures of each row. What is there is not made again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import read_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import write_json
from dreamcache.training.ablations.pictures import picture_pairs, picture_toys
from dreamcache.training.ablations.tables import RECIPES, AblationRow, Training
from dreamcache.training.adapters.data import DrawnWorld, TripletSource
from dreamcache.training.adapters.preset import PRESETS
from dreamcache.training.adapters.run import finetune, resolved
from dreamcache.training.adapters.trainer import ADAPTERS
from dreamcache.training.device import fast_in_bf16
from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier, load_classifier
from dreamcache.training.evaluation.toys.benchmark import ToyCase, draw_cases
from dreamcache.training.evaluation.toys.pairs import PairCase, draw_pair_cases
from dreamcache.training.world.dataset import write_npz
from dreamcache.training.world.styles import PLAIN

EXAMPLES = 6
RECIPE = PRESETS["miniature"].replaced(validation=0, sheet_rows=0)


@dataclass(frozen=True)
class Protocol:
    """What all rows of a run have in common.

    base: as `load_base` takes it. judge: the file of a classifier for pictures of its size; None is the shipped one.
    samples, pairs: of the drawn world, with one toy and with two. steps, batch: of each training. identities, scenes:
    held-out toys, and pictures of each; of two toys as many pictures. sampling_steps: of each picture.
    """

    samples: int = 42_000
    pairs: int = 8_000
    steps: int = 300
    batch: int = 64
    identities: int = 100
    scenes: int = 2
    sampling_steps: int = 20
    base: str = "mini"
    judge: str | None = None


@dataclass(frozen=True)
class Ablation:
    """A run folder and its protocol. Raises: SettingsError for a folder that was begun with another one."""

    run: Path
    protocol: Protocol

    def __post_init__(self) -> None:
        path = self.run / "protocol.json"
        ours = asdict(self.protocol)
        if path.exists():
            theirs = json.loads(path.read_text(encoding="utf-8"))
            if "base" not in theirs:
                raise SettingsError(
                    f"{self.run} was begun by version 0.1, whose trainer is gone: give another --run"
                )
            other = sorted(name for name in ours if theirs.get(name) != ours[name])
            if other:
                raise SettingsError(
                    f"{self.run} was begun with {other[0]} {theirs.get(other[0])}, received {ours[other[0]]}: "
                    "give the same, or another --run"
                )
        self.run.mkdir(parents=True, exist_ok=True)
        write_json(path, ours)

    def record(self, row: AblationRow) -> dict[str, Any]:
        """The row's settings, training and scores; made where it is not there yet."""
        path = self.run / "rows" / f"{_key(row)}.json"
        if not path.exists():
            record, pictures = self._measure(row)
            write_npz(path.with_suffix(".npz"), pictures=pictures)
            write_json(path, record)
        return dict(json.loads(path.read_text(encoding="utf-8")), name=row.name)

    def examples(self, row: AblationRow) -> NDArray[np.uint8]:
        """The row's first pictures, uint8 [n, size, size, 3]. Raises: FileNotFoundError before `record`."""
        with np.load(self.run / "rows" / f"{_key(row)}.npz", allow_pickle=False) as arrays:
            return np.asarray(arrays["pictures"])

    @cached_property
    def size(self) -> int:
        """Of the base's pictures, in pixels."""
        return int(resolved(RECIPE, self.protocol.base).resolution or 0)

    @cached_property
    def judge(self) -> AttributeClassifier:
        """Of pictures of that size. Raises: BenchmarkError where it reads others."""
        path = self.protocol.judge
        return load_classifier(*([] if path is None else [Path(path)])).of_size(self.size)

    @cached_property
    def cases(self) -> list[ToyCase]:
        """The pictures to make."""
        return draw_cases(self.protocol.identities, self.protocol.scenes, size=self.size)

    @cached_property
    def pair_cases(self) -> list[PairCase]:
        """The pictures of two toys to make."""
        return draw_pair_cases(self.protocol.identities * self.protocol.scenes, size=self.size)

    def adapters(self, training: Training) -> Path:
        """The adapters of a training, trained where they are not there yet."""
        protocol, config = self.protocol, training.config
        samples = protocol.samples if training.samples is None else training.samples
        preset = RECIPE.replaced(
            steps=protocol.steps,
            batch=protocol.batch,
            seed=training.seed,
            fusion=config.fusion,
            sites=config.sites,
            cache_timestep=config.cache_timestep,
            cache_prompt=config.cache_prompt,
            further_timestep=next(iter(config.further_timesteps), None),
            **RECIPES[training.recipe],
        )
        folder = self.run / "adapters" / training.name
        if (done := folder / "losses.json").exists():
            return done.with_name(ADAPTERS)
        pairs = DrawnWorld(protocol.pairs, self.size, "two") if training.pairs else None
        source = self._source(training, samples)
        return finetune(protocol.base, source, folder, preset, self.run / "encoded", pairs).adapters

    def _source(self, training: Training, samples: int) -> TripletSource:
        if training.data == "rendered":
            return DrawnWorld(samples, self.size)
        from dreamcache.training.ablations.painted import MixedTriplets, PaintedWorld

        steps, base = self.protocol.sampling_steps, self.protocol.base
        if training.data == "painted":
            return PaintedWorld(base, samples, self.size, steps)
        half = samples // 2
        return MixedTriplets(PaintedWorld(base, half, self.size, steps), DrawnWorld(half, self.size))

    def _measure(self, row: AblationRow) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        record: dict[str, Any] = asdict(row)
        del record["name"]
        if row.training is not None:
            record["training"] |= self._training_record(row.training)
        pipeline = self._pipeline(row.training)
        if row.further:
            config = pipeline.conditioned.config
            pipeline.conditioned.config = replace(config, further_timesteps=row.further)
        steps = self.protocol.sampling_steps
        if row.pair is None:
            pictures, scores = picture_toys(pipeline, self.judge, row, self.cases, steps)
        else:
            pictures, scores = picture_pairs(pipeline, self.judge, row, self.pair_cases, steps)
        bf16 = fast_in_bf16(pipeline.base.unet.device)
        return record | {"pictures_in_bf16": bf16, "scores": scores}, pictures[
            : EXAMPLES * self.protocol.scenes
        ]

    def _pipeline(self, training: Training | None) -> DreamCachePipeline:
        if training is not None:
            return DreamCachePipeline.load(self.protocol.base, self.adapters(training))
        base = load_base(self.protocol.base)
        return DreamCachePipeline(base, ConditionedUNet(base.unet))

    def _training_record(self, training: Training) -> dict[str, Any]:
        path = self.adapters(training)
        losses = json.loads((path.parent / "losses.json").read_text(encoding="utf-8"))
        tail = losses["losses"][-max(1, len(losses["losses"]) // 10) :]
        weights, _ = read_adapters(path)
        return {
            "parameters": sum(weight.numel() for weight in weights.values()),
            "seconds": round(losses["seconds"], 1),
            "loss": round(float(np.mean(tail)), 5),
        }


def _key(row: AblationRow) -> str:
    """A file's name, the same for rows that are made alike."""
    parts = ["text-only"] if row.training is None else [row.training.name]
    if row.training is not None:
        parts += [f"strength{row.strength:g}", f"references{row.references}"]
    parts += ["and" + "+".join(map(str, row.further))] if row.further else []
    parts += ["foreground"] if row.foreground else []
    parts += [row.style.replace(" ", "_")] if row.style != PLAIN else []
    parts += ["prompt_styles"] if row.prompt_styles else []
    parts += [str(row.guidance).replace(" / ", "+").replace(" ", "_")] if row.guidance else []
    parts += [row.pair] if row.pair else []
    return "-".join(parts)
