"""Files: written completely or not at all, and hashed.

An output is written next to its place under a temporary name and renamed in when it is complete; an
existing one is refused unless overwriting was asked for. A failure removes what was begun.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

from dreamcache.runtime.errors import DreamCacheError, OutputError, SettingsError, first_line

_CHUNK_BYTES = 1 << 20
_STALE_S = 3600


def check_output(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """The output's place, checked before any work is done for it.

    Raises: OutputError when it exists and may not be replaced, or its folder does not exist; SettingsError where
    `overwrite` says neither yes nor no.
    """
    place = Path(path)
    if not isinstance(overwrite, int) and overwrite not in (True, False):  # numpy's are no int
        raise SettingsError(f"overwrite: True or False is expected, received {overwrite!r}")
    if not overwrite and os.path.lexists(place):
        raise OutputError(f"{place} exists already; choose another name or pass --overwrite")
    folder = place.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} for {place.name} does not exist; create it first")
    try:
        with suppress(FileNotFoundError):
            place.lstat()  # a name may be too long for the file system, or hold what it does not take
    except (OSError, ValueError) as error:
        raise OutputError(f"{place} cannot be written: {_reason(error)}; choose another name") from error
    return place


def claim_file(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """The place of one file, where one can really be written: a file is made beside it and removed.

    Raises: OutputError as `check_output`, for a folder, a device or a pipe in its place, which no file replaces, and
    where nothing can be written.
    """
    place = check_output(path, overwrite)
    if place.is_dir():
        raise OutputError(f"{place} is a folder, a file is expected; choose another name")
    if place.exists() and not place.is_file():
        raise OutputError(f"{place} is a device or a pipe, a file is expected; choose another name")
    if _is_kept_by_another(place):
        raise OutputError(
            f"{place} belongs to another user, whose files this folder keeps; choose another name or folder"
        )
    temporary = _temporary_path(place)
    try:
        temporary.open("xb").close()
        temporary.unlink()
    except OSError as error:
        raise OutputError(
            f"{place} cannot be written: {_reason(error)}; choose another folder or change its permissions"
        ) from error
    return place


def _is_kept_by_another(place: Path) -> bool:
    """Whether the place is taken by a file that nobody but its owner may replace, as in /tmp (the sticky bit)."""
    if not os.path.lexists(place) or not hasattr(os, "geteuid"):
        return False
    file, folder = place.lstat(), place.absolute().parent.stat()
    return bool(folder.st_mode & stat.S_ISVTX) and os.geteuid() not in (0, file.st_uid, folder.st_uid)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


@contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write one file to; it takes its place when the block succeeds.

    Raises: OutputError as `check_output` does, or when the file cannot be written.
    """
    place = claim_file(path, overwrite)
    temporary = _temporary_path(place)
    remove_stale(place.absolute().parent, f".{escape(_short(place.name))}.*.part")
    try:
        yield temporary
        check_output(place, overwrite)
        temporary.replace(place)
    except DreamCacheError:
        raise
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror or error}") from error
    except Exception as error:
        # What safetensors raises on a full disk is no OSError.
        if type(error).__name__ != "SafetensorError":
            raise
        raise OutputError(f"{place} cannot be written: {first_line(error)}") from error
    finally:
        # An error here must not cover the one that ended the block.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """A record in the place of an older one, whole or not at all; its folder is made. Raises: OutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, overwrite=True) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def sha256_file(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file as hex, read in pieces; `progress` receives the bytes of each piece."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK_BYTES):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


def remove_stale(folder: Path, pattern: str) -> None:
    """Files and folders that killed runs left, an hour ago or longer: another process may be at work on younger ones.

    pattern: of their names, as `Path.glob` takes it.
    """
    for left in folder.glob(pattern):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime <= _STALE_S:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def _temporary_path(place: Path) -> Path:
    return place.absolute().parent / f".{_short(place.name)}.{secrets.token_hex(4)}.part"


def _short(name: str) -> str:
    """So much of a name that the temporary file's, which is longer, is one that the file system takes too.

    It stays in the system's own encoding: where that is ASCII, what other characters came as is no text.
    """
    while len(os.fsencode(name)) > 200:
        name = name[:-1]
    return name
