"""A finished folder of shards, checked before anything is read from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dreamcache.training.data.shards.index import (
    COMMANDS,
    ShardRecord,
    SourceRecord,
    StageIndex,
    StageName,
    read_index,
)
from dreamcache.training.data.shards.shards import ShardSample, check_shard, read_shard, tar_path
from dreamcache.training.errors import ShardError


@dataclass(frozen=True)
class ShardFolder:
    """The finished shards of a stage, read one by one."""

    folder: Path
    index: StageIndex
    records: tuple[ShardRecord, ...]

    @classmethod
    def open(cls, folder: Path, *stages: StageName) -> ShardFolder:
        """Every shard is there, as long as it should be, and of the settings in the index.

        Raises: ShardError naming what is wrong.
        """
        index = read_index(folder)
        if index.stage not in stages:
            raise ShardError(
                f"{folder}: shards of the stage {' or '.join(stages)} are expected, received {index.stage}; "
                f"make them with `{COMMANDS[stages[0]]}`"
            )
        missing = sum(not tar_path(folder, index, shard).is_file() for shard in range(index.shards))
        if missing:
            raise ShardError(
                f"{folder}: {index.shards} shards are expected, {missing} of them are not there; finish the stage "
                f"first: run `{COMMANDS[index.stage]}` with this folder again"
            )
        records = tuple(check_shard(folder, index, shard) for shard in range(index.shards))
        return cls(folder, index, records)

    @property
    def as_record(self) -> SourceRecord:
        """What the next stage's index says of it."""
        return SourceRecord(stage=self.index.stage, fingerprint=self.index.fingerprint)

    def read(self, shard: int) -> Iterator[ShardSample]:
        """The samples of a shard.

        Raises: ShardError as `read_shard`.
        """
        return read_shard(tar_path(self.folder, self.index, shard), self.records[shard].samples)
