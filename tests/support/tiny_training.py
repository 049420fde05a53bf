"""A training of adapters on a tiny base and a few triplets, which can be started in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dreamcache.training.adapters.checkpoints import NAME
from dreamcache.training.adapters.data import PlainTriplet
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.adapters.run import Finished, finetune

SIDE = 32
TINY = Preset().replaced(
    steps=12,
    batch=4,
    learning_rate=1e-2,
    warmup=3,
    ema=0.9,
    caption_drop=0.3,
    resolution=SIDE,
    precision="fp32",
    variants=2,
    validation=3,
    validate_every=6,
    checkpoint_every=2,
    log_every=1,
    sheet_rows=0,
    tensorboard=False,
)


@dataclass(frozen=True)
class Toys:
    """Coloured squares on white as references, on noise as targets; `spoilt` names a changed caption.

    subjects: references of a sample, each of its own colour.
    """

    count: int = 9
    resolution: int = SIDE
    spoilt: int = -1
    subjects: int = 1

    @property
    def fingerprint(self) -> str:
        """Of the samples below."""
        return f"toys-{self.count}-{self.resolution}-{self.spoilt}-{self.subjects}"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[PlainTriplet]:
        side = self.resolution
        for i in range(self.count):
            rng = np.random.default_rng(i)
            colour = rng.integers(0, 256, 3, dtype=np.uint8)
            target = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            reference = np.full((side, side, 3), 255, np.uint8)
            for picture in (target, reference):
                picture[side // 4 : -side // 4, side // 8 : side // 2] = colour
            if self.subjects > 1:
                reference = np.stack([np.roll(reference, k, -1) for k in range(self.subjects)])
            caption = "another" if i == self.spoilt else f"a robot {i}"
            yield PlainTriplet(f"toy{i}", caption, target, reference)


def train(
    base: Path, folder: Path, preset: Preset = TINY, pairs: Toys | None = None, **changes: Any
) -> Finished:
    """Run on one thread to the end."""
    torch.set_num_threads(1)
    return finetune(str(base), Toys(), folder, preset.replaced(**changes), pairs=pairs)


def train_announced(channel: Connection, base: Path, folder: Path, preset: Preset) -> None:
    """As `train`, with a word before anything is read."""
    channel.send("started")
    train(base, folder, preset)


def checkpoint(folder: Path) -> dict[str, Tensor]:
    """The tensors of a run's checkpoint."""
    tensors: dict[str, Tensor] = load_file(folder / NAME)
    return tensors


def weights(folder: Path) -> dict[str, Tensor]:
    """The adapters in a run's checkpoint."""
    return {name: value for name, value in checkpoint(folder).items() if name.startswith("weight.")}


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((one[name].detach() - other[name].detach()).abs().max()) for name in one)
