"""One row: its adapters trained (once, and continued after a kill), its pictures made and judged.

A run is a folder: samples and latents as the miniature's, `adapters/<training>/`, and `rows/` with a record and the
first pictures of each row. What is there is not made again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.models.bases.base import MINI_ADAPTERS, load_base
from dreamcache.models.checkpoint import read_adapters
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.evaluation.toys.benchmark import ToyCase, draw_cases
from dreamcache.training.evaluation.toys.pairs import PairCase, draw_pair_cases
from dreamcache.training.miniature.ablations.pictures import picture_pairs, picture_toys
from dreamcache.training.miniature.ablations.tables import AblationRow, Training
from dreamcache.training.miniature.latents import FOLDERS, Latents, encode_dataset, load_latents
from dreamcache.training.miniature.loop import Schedule
from dreamcache.training.miniature.stages.adapters import save_trained, train_adapters
from dreamcache.training.world.dataset import SHARD, Of, render_dataset, write_npz
from dreamcache.training.world.styles import PLAIN

EXAMPLES = 6
BASE = "mini"


@dataclass(frozen=True)
class Protocol:
    """What all rows of a run have in common.

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
            other = sorted(name for name in ours if theirs.get(name) != ours[name])
            if other:
                raise SettingsError(
                    f"{self.run} was begun with {other[0]} {theirs.get(other[0])}, received {ours[other[0]]}: "
                    "give the same, or another --run"
                )
        self.run.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")

    def record(self, row: AblationRow) -> dict[str, Any]:
        """The row's settings, training and scores; made where it is not there yet."""
        path = self.run / "rows" / f"{_key(row)}.json"
        if not path.exists():
            record, pictures = self._measure(row)
            write_npz(path.with_suffix(".npz"), pictures=pictures)
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return dict(json.loads(path.read_text(encoding="utf-8")), name=row.name)

    def examples(self, row: AblationRow) -> NDArray[np.uint8]:
        """The row's first pictures, uint8 [n, 64, 64, 3]. Raises: FileNotFoundError before `record`."""
        with np.load(self.run / "rows" / f"{_key(row)}.npz", allow_pickle=False) as arrays:
            return np.asarray(arrays["pictures"])

    @cached_property
    def cases(self) -> list[ToyCase]:
        """The pictures to make."""
        return draw_cases(self.protocol.identities, self.protocol.scenes)

    @cached_property
    def pair_cases(self) -> list[PairCase]:
        """The pictures of two toys to make."""
        return draw_pair_cases(self.protocol.identities * self.protocol.scenes)

    def adapters(self, training: Training) -> Path:
        """The adapters of a training, trained where they are not there yet."""
        folder = self.run / "adapters" / training.name
        path = folder / "adapters.safetensors"
        if not path.exists():
            samples = self.protocol.samples if training.samples is None else training.samples
            schedule = Schedule(
                steps=self.protocol.steps,
                batch=self.protocol.batch,
                learning_rate=5e-3,
                checkpoint_every=50,
                muon=True,
                seed=training.seed,
            )
            latents = self._latents("one", samples)
            pairs = self._latents("two", self.protocol.pairs, latents.scale) if training.pairs else None
            trained = train_adapters(latents, load_base(BASE), folder, schedule, training.config, pairs)
            save_trained(path, trained, load_base(BASE))
        return path

    def _latents(self, of: Of, samples: int, scale: float | None = None) -> Latents:
        """The first `samples`, rendered and encoded where they are not there."""
        data, latents = FOLDERS[of]
        whole = -(-samples // SHARD) * SHARD
        if not (self.run / latents / f"references-{whole // SHARD - 1:05d}.npz").exists():
            base = load_base(BASE)
            render_dataset(self.run / data, whole, of=of)
            encode_dataset(self.run / data, self.run / latents, whole, base.vae, base.tokenizer)
        return load_latents(self.run / latents, samples, scale)

    def _measure(self, row: AblationRow) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        record: dict[str, Any] = asdict(row)
        del record["name"]
        if row.training is not None:
            record["training"] |= self._training_record(row.training)
        pipeline = DreamCachePipeline.load(
            BASE, MINI_ADAPTERS if row.training is None else self.adapters(row.training)
        )
        if row.further:
            config = pipeline.conditioned.config
            pipeline.conditioned.config = replace(config, further_timesteps=row.further)
        steps = self.protocol.sampling_steps
        if row.pair is None:
            pictures, scores = picture_toys(pipeline, row, self.cases, steps)
        else:
            pictures, scores = picture_pairs(pipeline, row, self.pair_cases, steps)
        return record | {"scores": scores}, pictures[: EXAMPLES * self.protocol.scenes]

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
