"""Running a stage: the shards of this process, each skipped when it is whole and else made; then what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dreamcache.runtime.progress import progress_bar
from dreamcache.training.data.shards.distribution import ProcessRank, claim
from dreamcache.training.data.shards.index import (
    INDEX_NAME,
    ShardRecord,
    StageIndex,
    read_index,
    write_record,
)
from dreamcache.training.data.shards.shards import (
    ShardSample,
    find_whole_shard,
    write_shard,
)
from dreamcache.training.errors import ShardError, SynthesisError


@dataclass
class ShardProgress:
    """What a stage tells while it makes a shard: why samples were left out, and how far it is."""

    advance: Callable[[int], None] = lambda _: None
    rejected: Counter[str] = field(default_factory=Counter)


class Stage(Protocol):
    """What makes shards. Models are loaded with the first sample, so a stage is cheap and can be pickled."""

    @property
    def index(self) -> StageIndex:
        """All its choices."""

    def source_sha256(self, shard: int) -> str | None:
        """Hash of the shard that this one is made from; None for a stage without a source."""

    def expected(self, shard: int) -> int:
        """How many samples it starts from."""

    def samples(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        """The samples of a shard that pass, in the order of their keys."""


@dataclass(frozen=True)
class Summary:
    """Of a run: shards made now, kept from before, and left to another process that is at work on them."""

    made: int
    kept: int
    busy: int
    samples: int
    rejected: dict[str, int]

    @classmethod
    def of(cls, outcomes: list[tuple[str, ShardRecord | None]]) -> Summary:
        """Over what `run_shard` returned."""
        how = Counter(name for name, _ in outcomes)
        records = [record for _, record in outcomes if record is not None]
        rejected: Counter[str] = Counter()
        for record in records:
            rejected.update(record.rejected)
        samples = sum(record.samples for record in records)
        return cls(how["made"], how["kept"], how["busy"], samples, dict(sorted(rejected.items())))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def open_output(folder: Path, index: StageIndex) -> None:
    """Make the folder, or continue one whose index says the same.

    Raises: SynthesisError when other settings made it; ShardError when its index cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / INDEX_NAME).exists():
        if any(folder.glob("*.tar")):
            raise ShardError(f"{folder}: shards without {INDEX_NAME} lie there; choose another folder")
        write_record(folder / INDEX_NAME, index)
    there = read_index(folder)
    if there.fingerprint == index.fingerprint:
        return
    old, new = there.model_dump(mode="json"), index.model_dump(mode="json")
    changed = [
        *(name for name in ("stage", "seed", "shards", "shard_size", "resolution") if old[name] != new[name]),
        *(name for name in ("models", "source") if old[name] != new[name]),
        *(
            name
            for name in sorted({*old["settings"], *new["settings"]})
            if old["settings"].get(name) != new["settings"].get(name)
        ),
    ]
    raise SynthesisError(
        f"{folder} was made with other settings ({', '.join(changed)}); give the same again to continue it, or "
        "choose another folder"
    )


def run_shard(
    stage: Stage, folder: Path, shard: int, advance: Callable[[int], None] = lambda _: None
) -> tuple[str, ShardRecord | None]:
    """Make one shard unless it is whole ("kept") or another process is at it ("busy").

    Raises: what the stage raises; then nothing of the shard is left.
    """
    source_sha256 = stage.source_sha256(shard)
    with claim(folder, shard) as ours:
        if not ours:
            return "busy", None
        if (record := find_whole_shard(folder, stage.index, shard, source_sha256)) is not None:
            return "kept", record
        report = ShardProgress(advance)
        samples = stage.samples(shard, report)
        record = write_shard(
            folder, stage.index, shard, samples, source_sha256=source_sha256, rejected=report.rejected
        )
        return "made", record


def run_stage(stage: Stage, folder: Path, process: ProcessRank | None = None) -> Summary:
    """All shards of this process, in order; progress on stderr.

    Raises: SynthesisError or ShardError; shards made before stay, and a rerun continues after them.
    """
    process = ProcessRank.from_environment() if process is None else process
    open_output(folder, stage.index)
    shards = process.shards(stage.index.shards)
    outcomes = []
    with progress_bar(stage.index.stage) as draw:
        bar = _Bar(draw, sum(stage.expected(shard) for shard in shards))
        for shard in shards:
            before = bar.done
            outcomes.append(run_shard(stage, folder, shard, bar.add))
            bar.add(before + stage.expected(shard) - bar.done)
    return Summary.of(outcomes)


@dataclass
class _Bar:
    """Samples done of all shards of this process."""

    draw: Callable[[int, int], None]
    total: int
    done: int = 0

    def add(self, samples: int) -> None:
        self.done += samples
        self.draw(self.done, self.total)
