"""WebDataset shards: written whole or not at all, to the same bytes each time, and read as untrusted.

A shard is a tar whose members are KEY.KIND, grouped by key (the WebDataset convention, github.com/webdataset).
Headers hold no times and no owner. Reading goes through the library's tar reader without its decoders, which would
unpickle and run `pipe:` commands: members are bytes of known kinds here, and what they hold is decoded by name.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from webdataset import TarWriter
from webdataset.tariterators import group_by_keys, tar_file_expander

from dreamcache.runtime.errors import first_line
from dreamcache.runtime.files import replacing, sha256_file
from dreamcache.training.data.shards.index import (
    COMMANDS,
    ShardRecord,
    StageIndex,
    read_shard_record,
    write_record,
)
from dreamcache.training.errors import ShardError, SynthesisError

KINDS = ("txt", "json", "target.jpg", "target.png", "reference.png", "mask.png")
MAX_MEMBER_BYTES = 64 << 20
_MEMBER = re.compile(r"[0-9a-z_-]{1,64}\.(" + "|".join(re.escape(kind) for kind in KINDS) + ")")
_PLAIN_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard: encoded members by kind (`KINDS`)."""

    key: str
    members: dict[str, bytes]


class _HashedStream:
    """Counts and hashes what is written through it, so that a shard is not read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def tar_path(folder: Path, index: StageIndex, shard: int) -> Path:
    """Path of a shard; its record has the suffix .json."""
    return folder / f"{index.stage}-{shard:05d}.tar"


def write_shard(
    folder: Path,
    index: StageIndex,
    shard: int,
    samples: Iterable[ShardSample],
    *,
    source_sha256: str | None = None,
    rejected: Mapping[str, int] | None = None,
) -> ShardRecord:
    """Write a shard and, after it is in place, its record. What a killed process left of it is removed.

    samples: in the order of their keys. rejected: read after the last sample, for a stage fills it meanwhile.
    Raises: SynthesisError when there is no sample at all. Whatever is raised, no partial file stays.
    """
    path = tar_path(folder, index, shard)
    for left in folder.glob(f".{path.stem}.*.part"):
        left.unlink(missing_ok=True)
    count = 0
    with replacing(path, overwrite=True) as partial:
        with partial.open("wb") as file:
            stream = _HashedStream(file)
            with TarWriter(stream, encoder=False, compress=False, mtime=0) as writer:
                for count, sample in enumerate(samples, start=1):  # noqa: B007  # the count is what stays
                    writer.write({"__key__": sample.key, **sample.members})
        reasons = {name: number for name, number in sorted((rejected or {}).items()) if number}
        if count == 0:
            said = ", ".join(f"{name}: {number}" for name, number in reasons.items())
            raise SynthesisError(
                f"{path.name}: no sample of the shard passes ({said or 'its source is empty'}); nothing was "
                "written; look at a few by hand, then change the model or the limits"
            )
    record = ShardRecord(
        stage=index.stage,
        shard=shard,
        made_by=index.fingerprint,
        source_sha256=source_sha256,
        samples=count,
        rejected=reasons,
        bytes=stream.bytes,
        sha256=stream.hexdigest(),
    )
    write_record(path.with_suffix(".json"), record)
    return record


def find_whole_shard(
    folder: Path, index: StageIndex, shard: int, source_sha256: str | None
) -> ShardRecord | None:
    """The record of a shard that needs no work; None when it is absent, damaged or made from another source.

    Raises: ShardError when it is whole but other settings made it: that is not ours to overwrite.
    """
    path = tar_path(folder, index, shard)
    if not path.is_file() or not path.with_suffix(".json").is_file():
        return None
    record = read_shard_record(path.with_suffix(".json"), index)
    if record.source_sha256 != source_sha256 or path.stat().st_size != record.bytes:
        return None
    return record if sha256_file(path) == record.sha256 else None


def check_shard(folder: Path, index: StageIndex, shard: int, *, hashed: bool = False) -> ShardRecord:
    """The record of a shard that is there and as long as it should be (`hashed`: and of the same bytes).

    Raises: ShardError naming the shard and what is wrong with it.
    """
    path = tar_path(folder, index, shard)
    mend = f"run `{COMMANDS[index.stage]}` with this folder again"
    record = read_shard_record(path.with_suffix(".json"), index)
    if not path.is_file():
        raise ShardError(f"{path}: a shard is expected, received none; {mend}")
    if (size := path.stat().st_size) != record.bytes:
        how = "truncated" if size < record.bytes else "changed"
        raise ShardError(f"{path}: {record.bytes} bytes are expected, received {size}: it is {how}; {mend}")
    if hashed and sha256_file(path) != record.sha256:
        raise ShardError(f"{path}: the bytes of its record are expected, received others; {mend}")
    return record


def read_shard(path: Path, count: int | None = None) -> Iterator[ShardSample]:
    """The samples of a shard, in order.

    Raises: ShardError when it is not a plain tar, truncated, or holds what no stage writes, or another number of
    samples than `count`.
    """
    try:
        _check_members(path)
        with path.open("rb") as stream:
            # The stream is opened here: the library's own opener would run what follows "pipe:" in a name.
            members = tar_file_expander([{"url": str(path), "stream": stream}])
            number = 0
            for group in group_by_keys(members):
                number += 1
                yield ShardSample(
                    group["__key__"], {k: v for k, v in group.items() if not k.startswith("__")}
                )
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(
            f"{path}: a whole tar is expected, received a truncated or damaged one ({first_line(error)}); "
            "make the shard again"
        ) from error
    if count is not None and number != count:
        raise ShardError(f"{path}: {count} samples are expected, received {number}; make the shard again")


def _check_members(path: Path) -> None:
    """Refuse, by headers alone, what would be decompressed, expanded or stored under another name."""
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.type not in _PLAIN_FILES or not _MEMBER.fullmatch(member.name):
                raise ShardError(
                    f"{path}: members KEY.{{{', '.join(KINDS)}}} are expected, received {member.name!r}; it is "
                    "not a shard of ours"
                )
            if member.size > MAX_MEMBER_BYTES:
                raise ShardError(
                    f"{path}: {member.name}: at most {MAX_MEMBER_BYTES >> 20} MiB are expected, received "
                    f"{member.size} bytes; make the shard again"
                )
