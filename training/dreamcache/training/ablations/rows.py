"""One row: its adapters trained (once, and continued after a kill), its pictures made and judged.

A run is a folder: `data/` and `latents/` as the miniature's, `adapters/<training>/`, and `rows/` with a record and
the first pictures of each row. What is there is not made again.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dreamcache.training.ablations.styles import restyle
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from dreamcache.models.base import MINI_ADAPTERS, load_base
from dreamcache.models.caching import join_caches
from dreamcache.models.checkpoint import read_adapters
from dreamcache.models.conditioned import Cache
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.errors import SettingsError
from dreamcache.training.ablations.tables import Row, Training
from dreamcache.training.adapters import save_trained, train_adapters
from dreamcache.training.console import stderr
from dreamcache.training.dataset import SHARD, render_dataset, write_npz
from dreamcache.training.evaluation.benchmark import Case, draw_cases
from dreamcache.training.evaluation.judge import load_judge
from dreamcache.training.evaluation.painter import cache_batch, paint_batch, recommended
from dreamcache.training.evaluation.scores import score
from dreamcache.training.latents import encode_dataset, load_latents
from dreamcache.training.loop import Schedule
from dreamcache.training.world.identity import Identity
from dreamcache.training.world.render import render_reference

EXAMPLES = 6
BASE = "mini"


@dataclass(frozen=True)
class Protocol:
    """What all rows of a run have in common.

    samples: of the drawn world. steps, batch: of each training. identities, scenes: held-out toys, and pictures of
    each. sampling_steps: of each picture.
    """

    samples: int = 42_000
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

    def record(self, row: Row) -> dict[str, Any]:
        """The row's settings, training and scores; made where it is not there yet."""
        path = self.run / "rows" / f"{_key(row)}.json"
        if not path.exists():
            record, pictures = self._measure(row)
            write_npz(path.with_suffix(".npz"), pictures=pictures)
            path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return dict(json.loads(path.read_text(encoding="utf-8")), name=row.name)

    def examples(self, row: Row) -> NDArray[np.uint8]:
        """The row's first pictures, uint8 [n, 64, 64, 3]. Raises: FileNotFoundError before `record`."""
        with np.load(self.run / "rows" / f"{_key(row)}.npz", allow_pickle=False) as arrays:
            return np.asarray(arrays["pictures"])

    @cached_property
    def cases(self) -> list[Case]:
        """The pictures to make."""
        return draw_cases(self.protocol.identities, self.protocol.scenes)

    def adapters(self, training: Training) -> Path:
        """The adapters of a training, trained where they are not there yet."""
        folder = self.run / "adapters" / training.name
        path = folder / "adapters.safetensors"
        if not path.exists():
            samples = self.protocol.samples if training.samples is None else training.samples
            self._prepare(-(-samples // SHARD) * SHARD)
            schedule = Schedule(
                steps=self.protocol.steps,
                batch=self.protocol.batch,
                learning_rate=5e-3,
                checkpoint_every=50,
                muon=True,
                seed=training.seed,
            )
            latents = load_latents(self.run / "latents", samples)
            trained = train_adapters(latents, load_base(BASE), folder, schedule, training.config)
            save_trained(path, trained, load_base(BASE))
        return path

    def _prepare(self, samples: int) -> None:
        """Render and encode what the training needs and is not there."""
        if not (self.run / "latents" / f"latents-{samples // SHARD - 1:05d}.npz").exists():
            base = load_base(BASE)
            render_dataset(self.run / "data", samples)
            encode_dataset(self.run / "data", self.run / "latents", samples, base.vae, base.tokenizer)

    def _measure(self, row: Row) -> tuple[dict[str, Any], NDArray[np.uint8]]:
        cases = self.cases
        record: dict[str, Any] = {
            "strength": row.strength,
            "references": row.references,
            "further_timesteps": list(row.further),
            "foreground": row.foreground,
            "style": row.style,
            "training": None,
        }
        if row.training is not None:
            record["training"] = asdict(row.training) | self._training_record(row.training)
        pictures = self._paint(row, cases)
        scores = score(
            load_judge(),
            pictures,
            [case.toy for case in cases],
            [case.scene for case in cases],
            np.stack([case.reference for case in cases]),
            np.stack([case.mask for case in cases]),
        )
        return record | {"scores": asdict(scores)}, pictures[: EXAMPLES * self.protocol.scenes]

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

    def _paint(self, row: Row, cases: list[Case]) -> NDArray[np.uint8]:
        path = MINI_ADAPTERS if row.training is None else self.adapters(row.training)
        pipeline = DreamCachePipeline.load(BASE, path)
        if row.further:
            config = pipeline.conditioned.config
            pipeline.conditioned.config = replace(config, further_timesteps=row.further)
        how = replace(recommended(MINI_ADAPTERS), steps=self.protocol.sampling_steps, strength=row.strength)
        pictures = []
        for start in track(range(0, len(cases), 50), row.name, console=stderr):
            part = cases[start : start + 50]
            cache = None if row.training is None else self._cache(pipeline, row, part)
            visible = _foreground(cache, part) if cache is not None and row.foreground else None
            prompts, seeds = [case.prompt for case in part], [case.seed for case in part]
            pictures.append(paint_batch(pipeline, prompts, cache, seeds, how, visible))
        return np.concatenate(pictures)

    def _cache(self, pipeline: DreamCachePipeline, row: Row, cases: list[Case]) -> Cache:
        views = [np.stack([case.reference for case in cases])]
        others = [other_views(case.toy, row.references - 1) for case in cases]
        views += [np.stack([seen[i] for seen in others]) for i in range(row.references - 1)]
        return join_caches([cache_batch(pipeline, restyle(view, row.style)) for view in views])


def other_views(toy: Identity, count: int) -> list[NDArray[np.uint8]]:
    """Further references of a toy, uint8 [64, 64, 3], in other poses; the same for every picture of it."""
    rng = np.random.default_rng([zlib.crc32(toy.key.encode()), 1])
    return [render_reference(toy, rng).image for _ in range(count)]


def _foreground(cache: Cache, cases: list[Case]) -> dict[str, Tensor]:
    """Which tokens hold a part of the toy: site to bool [n, 1, m]."""
    masks = torch.from_numpy(np.stack([case.mask for case in cases]))[:, None]
    sides = {name: round(tokens.shape[1] ** 0.5) for name, tokens in cache.items()}
    return {name: functional.adaptive_avg_pool2d(masks, side).flatten(2) > 0 for name, side in sides.items()}


def _key(row: Row) -> str:
    """A file's name, the same for rows that are made alike."""
    if row.training is None:
        return "text-only"
    parts = [row.training.name, f"strength{row.strength:g}", f"references{row.references}"]
    parts += ["and" + "+".join(map(str, row.further))] if row.further else []
    parts += ["foreground"] if row.foreground else []
    parts += [row.style.replace(" ", "_")] if row.style else []
    return "-".join(parts)
