"""What each step trains on, as a function of the seed and the sample's number: the position is the step.

Samples of a run are numbered through: step, then accumulated pass, then process, then place in the batch. All
that is random about a sample follows from its number, so an update is the same however it is split, and a
continued run needs to know its step alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dreamcache.training.adapters.encoded import Encoded, EncodedData
from dreamcache.training.adapters.preset import Preset

TIMESTEPS = 1000
_HELD_OUT, _EPOCH, _SAMPLE = 1, 2, 3


class Drawn(NamedTuple):
    """The random part of samples: rows and variants [n]; timesteps int64 [n]; dropped bool [n] (the caption);
    noise, reference_noise float32 [n, z, h, w]; of two subjects reference_noise [n, 2, z, h, w]."""

    rows: list[int]
    variants: list[int]
    timesteps: Tensor
    dropped: Tensor
    noise: Tensor
    reference_noise: Tensor


def held_out(seed: int, samples: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that train, and `count` rows that validate."""
    rows = np.random.default_rng([seed, _HELD_OUT]).permutation(samples)
    return np.sort(rows[count:]), np.sort(rows[:count])


@dataclass
class Order:
    """rows: that train; each is seen once an epoch. subjects: of a sample. strata: equal parts of the timesteps; each
    sample has the next one.
    """

    seed: int
    rows: NDArray[np.int64]
    latent_shape: tuple[int, int, int]
    variants: int
    caption_drop: float
    timesteps: int = TIMESTEPS
    subjects: int = 1
    strata: int = 1
    _epoch: int = field(default=-1, init=False)
    _shuffled: NDArray[np.int64] = field(init=False, repr=False)

    def draw(self, start: int, count: int) -> Drawn:
        """Samples start … start + count − 1 of the run."""
        drawn = [self._draw(number) for number in range(start, start + count)]
        rows, variants, timesteps, dropped, noise, reference_noise = zip(*drawn, strict=True)
        return Drawn(
            list(rows),
            list(variants),
            torch.tensor(timesteps),
            torch.tensor(dropped),
            torch.stack(noise),
            torch.stack(reference_noise),
        )

    def row(self, number: int) -> int:
        """The row of a sample of the run: a new shuffle each epoch."""
        epoch, place = divmod(number, len(self.rows))
        if epoch != self._epoch:
            self._shuffled = np.random.default_rng([self.seed, _EPOCH, epoch]).permutation(self.rows)
            self._epoch = epoch
        return int(self._shuffled[place])

    def _draw(self, number: int) -> tuple[int, int, int, bool, Tensor, Tensor]:
        rng = np.random.default_rng([self.seed, _SAMPLE, number])
        noise = rng.standard_normal((1 + self.subjects, *self.latent_shape), dtype=np.float32)
        variant, timestep = int(rng.integers(self.variants)), int(rng.integers(self.timesteps))
        return (
            self.row(number),
            variant,
            (number % self.strata * self.timesteps + timestep) // self.strata,
            bool(rng.random() < self.caption_drop),
            torch.from_numpy(noise[0]),
            torch.from_numpy(noise[1] if self.subjects == 1 else noise[1:]),
        )


Pass = tuple[bool, Drawn, Encoded]
"""Whether its samples are of two subjects, what is random about them, and they themselves."""


@dataclass(frozen=True)
class SampleStream:
    """Encoded samples in the order of a run."""

    data: EncodedData
    order: Order


@dataclass
class Passes(Dataset[Pass]):
    """Those of one process of several.

    They are numbered through: step, then accumulated pass. Those with two subjects are numbered by themselves.
    """

    singles: SampleStream
    pairs: SampleStream | None
    preset: Preset
    process: int
    processes: int

    def __getitem__(self, number: int) -> Pass:
        step, accumulated = divmod(number, self.preset.accumulation)
        stream, of_two = self.singles, False
        if self.pairs is not None:
            earlier, place = divmod(step, self.preset.pairs_every)
            of_two = place == self.preset.pairs_every - 1
            stream, step = (self.pairs, earlier) if of_two else (self.singles, step - earlier)
        passes = step * self.preset.accumulation + accumulated
        drawn = stream.order.draw(
            (passes * self.processes + self.process) * self.preset.batch, self.preset.batch
        )
        return of_two, drawn, stream.data.take(drawn.rows, drawn.variants)

    def __len__(self) -> int:
        return self.preset.steps * self.preset.accumulation

    def after(self, step: int) -> Iterator[Pass]:
        """Those that remain after a step, read ahead by the preset's workers."""
        # the loader draws a seed for its workers, which need none: not from the run's generator
        own = torch.Generator()
        numbers = range(step * self.preset.accumulation, len(self))
        workers = self.preset.workers
        return iter(DataLoader(self, batch_size=None, sampler=numbers, num_workers=workers, generator=own))
