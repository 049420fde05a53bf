"""The passes of a run by their numbers: which samples, and all that is random about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from dreamcache.training.adapters.encoded import Encoded, EncodedData
from dreamcache.training.adapters.order import Drawn, Order
from dreamcache.training.adapters.preset import Preset

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
        own = (
            torch.Generator()
        )  # the loader draws a seed for its workers, which need none: not from the run's
        numbers = range(step * self.preset.accumulation, len(self))
        workers = self.preset.workers
        return iter(DataLoader(self, batch_size=None, sampler=numbers, num_workers=workers, generator=own))
