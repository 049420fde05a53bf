"""Opening an `.mlpackage` as the untrusted folder that it is: manifest, specification, weight file.

Layout: a folder with `Manifest.json`, whose entries name files below `Data/`; the root entry is the specification, a
protobuf of coremltools' `Model.proto`, and MIL programs keep large constants in `weights/weight.bin` beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from coremltools.proto import Model_pb2
from google.protobuf.message import DecodeError

from dreamcache.export.errors import ExportError

MANIFEST = "Manifest.json"
NEWEST_SPECIFICATION = 9
"""iOS 18 and macOS 15; what later versions mean is not known here."""
MAX_SPECIFICATION_BYTES = 1 << 30
MAX_MANIFEST_BYTES = 1 << 20
_MODEL_PATH = "@model_path/"


@dataclass(frozen=True)
class Package:
    """An opened package.

    Attributes:
        folder: of the package.
        specification: `Model_pb2.Model`, whose `mlProgram` is a MIL program.
        root: the folder that weight files are named from.
    """

    folder: Path
    specification: Any
    root: Path

    def weight_file(self, name: str) -> Path:
        """The file that a constant names, as ``@model_path/weights/weight.bin``.

        Raises:
            ExportError: the name leaves the package, or nothing is there.
        """
        if not name.startswith(_MODEL_PATH):
            raise ExportError(f"{self.folder}: a weight file {name!r} is not below {_MODEL_PATH}")
        return _inside(self.folder, self.root, name.removeprefix(_MODEL_PATH))


def open_package(folder: Path) -> Package:
    """Read manifest and specification; weights are read when they are asked for.

    Raises:
        ExportError: no package, a broken or too new one, a path that leaves it, or no MIL program.
    """
    manifest = _read_manifest(folder)
    data = folder / "Data"
    try:
        entry = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
        path = _inside(folder, data, str(entry["path"]))
    except (KeyError, TypeError) as error:
        raise ExportError(f"{folder}: {MANIFEST} names no specification; export it again") from error
    if path.stat().st_size > MAX_SPECIFICATION_BYTES:
        raise ExportError(f"{path}: {path.stat().st_size} bytes are too many for a specification")
    specification = Model_pb2.Model()
    try:
        specification.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ExportError(f"{path}: not a Core ML specification, or a truncated one") from error
    version = specification.specificationVersion
    if version > NEWEST_SPECIFICATION:
        raise ExportError(
            f"{folder}: specification version {version} is newer than {NEWEST_SPECIFICATION}, the newest known here; "
            "update dreamcache"
        )
    if specification.WhichOneof("Type") != "mlProgram":
        raise ExportError(f"{folder}: an ML program is expected, received {specification.WhichOneof('Type')}")
    return Package(folder, specification, path.parent)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ExportError(f"{path} is too large for a manifest")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{folder}: an .mlpackage with a readable {MANIFEST} is expected") from error
    if not isinstance(manifest, dict):
        raise ExportError(f"{path}: an object is expected")
    return manifest


def _inside(folder: Path, start: Path, name: str) -> Path:
    """The file `name` below `start`; it must lie in `folder`, whatever links say."""
    relative = PurePosixPath(name)
    path = start / relative
    if (
        relative.is_absolute()
        or ".." in relative.parts
        or not path.resolve().is_relative_to(folder.resolve())
    ):
        raise ExportError(f"{folder}: path {name!r} leaves the package")
    if not path.is_file():
        raise ExportError(f"{folder}: {name} is missing; export it again")
    return path
