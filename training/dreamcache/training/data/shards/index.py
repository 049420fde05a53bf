"""What made a folder of shards (`index.json`) and what is in each (`STAGE-NNNNN.json`), as JSON.

The fingerprint of an index covers everything that the bytes of its shards depend on. Each shard's record repeats
it, so a shard that strayed in from another run is found without being opened.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from dreamcache.runtime.files import replacing
from dreamcache.runtime.untrusted import parse_json, read_bounded
from dreamcache.training.errors import ShardError

VERSION = 1
INDEX_NAME = "index.json"
COMMANDS = {
    "captions": "dreamcache synthesize captions",
    "targets": "dreamcache synthesize targets",
    "references": "dreamcache synthesize references",
    "world": "dreamcache synthesize world",
}
"""Each stage and the command that makes and mends its shards."""

StageName = Literal["captions", "targets", "references", "world"]
_PACKAGES = (
    "dreamcache",
    "numpy",
    "pillow",
    "torch",
    "transformers",
    "diffusers",
    "onnxruntime",
    "webdataset",
)
_MAX_BYTES = 16 << 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Record):
    """A model of a stage. `source` is as the user named it; the fingerprint alone tells models apart."""

    role: str
    source: str
    fingerprint: str


class SourceRecord(_Record):
    """The stage whose shards this one read, and the fingerprint of its index."""

    stage: StageName
    fingerprint: str


class StageIndex(_Record):
    """All choices of a stage. `resolution`: side of the pictures in pixels, None where there are none."""

    version: int = VERSION
    stage: StageName
    seed: int
    shards: int = Field(ge=1)
    shard_size: int = Field(ge=1)
    resolution: int | None = Field(default=None, ge=1)
    settings: dict[str, JsonValue] = {}
    models: tuple[ModelRecord, ...] = ()
    source: SourceRecord | None = None
    made_with: dict[str, str] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything but the versions of packages and where models lay."""
        essence = self.model_dump(mode="json", exclude={"made_with": True, "models": {"__all__": {"source"}}})
        return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()


class ShardRecord(_Record):
    """One whole shard. `made_by`: fingerprint of the index; `source_sha256`: of the shard it was made from."""

    version: int = VERSION
    stage: StageName
    shard: int = Field(ge=0)
    made_by: str
    source_sha256: str | None = None
    samples: int = Field(ge=0)
    rejected: dict[str, int] = {}
    bytes: int = Field(ge=0)
    sha256: str


_Kind = TypeVar("_Kind", StageIndex, ShardRecord)


def installed_versions() -> dict[str, str]:
    """Versions of the packages that shape the bytes of a shard."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record whole or not at all."""
    with replacing(path, overwrite=True) as partial:
        partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_index(folder: Path) -> StageIndex:
    """The index of a folder.

    Raises: ShardError when there is none, or it is damaged or of another version.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise ShardError(
            f"{folder}: a folder of shards with {INDEX_NAME} is expected, received "
            f"{'none' if folder.is_dir() else 'no such folder'}; make it with dreamcache synthesize"
        )
    return _read(path, StageIndex, "restore it, or make the folder again")


def read_shard_record(path: Path, index: StageIndex) -> ShardRecord:
    """The record beside a shard.

    Raises: ShardError when it is absent, damaged, of another version, or of a shard that other settings made.
    """
    mend = f"run `{COMMANDS[index.stage]}` with this folder again"
    if not path.is_file():
        raise ShardError(f"{path.with_suffix('.tar')}: a whole shard is expected, received none; {mend}")
    record = _read(path, ShardRecord, mend)
    if record.made_by != index.fingerprint or record.stage != index.stage:
        raise ShardError(
            f"{path.with_suffix('.tar')}: a shard of the settings in {INDEX_NAME} ({index.fingerprint[:12]}) is "
            f"expected, received one of others ({record.made_by[:12]}): the folder is mixed; move the shard and "
            f"its .json away, then {mend}"
        )
    return record


def _read(path: Path, kind: type[_Kind], mend: str) -> _Kind:
    try:
        content = parse_json(read_bounded(path, _MAX_BYTES))
    except ValueError as error:
        raise ShardError(f"{path}: JSON is expected: {error}; {mend}") from error
    received = content.get("version") if isinstance(content, dict) else None
    if received != VERSION:
        raise ShardError(
            f"{path}: version {VERSION} is expected, received {received!r}; make the shards again with this "
            "release, or read them with the one that made them"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "content"
        raise ShardError(f"{path}: {place}: {first['msg'].lower()}; {mend}") from error
