"""A stage that tells of each sample before it is written and waits for a word: so that it can be killed right there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from dreamcache.training.data.shards.distribution import ProcessRank
from dreamcache.training.data.shards.index import StageIndex
from dreamcache.training.data.shards.shards import ShardSample
from dreamcache.training.data.stages.stage import ShardProgress, Stage, run_stage


@dataclass
class Announced:
    """A real stage with a channel to the test."""

    stage: Stage
    channel: Connection

    @property
    def index(self) -> StageIndex:
        return self.stage.index

    def source_sha256(self, shard: int) -> str | None:
        return self.stage.source_sha256(shard)

    def expected(self, shard: int) -> int:
        return self.stage.expected(shard)

    def samples(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        for number, sample in enumerate(self.stage.samples(shard, report)):
            self.channel.send((shard, number))
            self.channel.recv()
            yield sample


def run_announced(stage: Stage, folder: Path, channel: Connection) -> None:
    """Run the stage; at the end send its summary."""
    torch.set_num_threads(1)
    channel.send(run_stage(Announced(stage, channel), folder, ProcessRank()))
