"""A folder that appears whole or not at all, whenever the process is killed.

It is filled beside its place, under a hidden name, with a marker inside. At the end both folders hold the marker and
trade places in one system call; then what is hidden goes. So the place holds the old folder or the new one, whole, at
every moment, and a run that was killed leaves a marked or empty hidden folder, which the next run removes. An unmarked
one is never touched. Where the system cannot exchange folders, the old one is moved aside first; a run that was killed
in that moment is mended by the next one, which moves it back. What lies aside is whole: it takes the hidden folder's
name before anything of it is removed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamcache.runtime.bundle.contract import CONTRACT_NAME, MAX_CONTRACT_BYTES
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.files import check_output
from dreamcache.runtime.sessions.system import held_file
from dreamcache.runtime.untrusted import parse_json, read_bounded

MARKER = ".dreamcache-partial"
_MOST_NAME_BYTES = 240

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def partial_place(out: Path) -> Path:
    """Where the folder for `out` is filled: beside it, or beside the folder that a link leads to."""
    return _hidden(out, "partial")


def _old_place(out: Path) -> Path:
    return _hidden(out, "partial-old")


def _hidden(out: Path, ending: str) -> Path:
    place = _behind_links(out)
    name = place.name
    if len(os.fsencode(name)) > _MOST_NAME_BYTES:  # the hidden name has to fit too
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return place.parent / f".{name}.{ending}"


def _behind_links(out: Path) -> Path:
    """The folder itself: a link to a bundle on another disk stays, and what it leads to is replaced."""
    return Path(os.path.realpath(out)) if out.is_symlink() else out.absolute()


def check_place(out: Path, overwrite: bool) -> None:
    """Look at the place before any work is done for it; an old bundle that a killed run moved aside comes back.

    Raises:
        OutputError: it is taken, and overwriting was not asked for or would replace something else than a
            bundle; or the folder it goes into does not exist.
    """
    check_output(out, overwrite=True)  # a name that the system takes
    old, place = _old_place(out), _behind_links(out)
    if not place.exists() and (old / MARKER).is_file():
        old.rename(place)
        (place / MARKER).unlink()
    check_output(out, overwrite)
    check_output(place, overwrite)
    if place.is_dir() and any(place.iterdir()) and not (place / CONTRACT_NAME).is_file():
        raise OutputError(
            f"{out} holds something else than a bundle and is not replaced; choose another name"
        )
    if place.exists() and not place.is_dir():
        raise OutputError(f"{out} is a file and a bundle is a folder; choose another name")
    if (other := _no_part_of_it(place)) is not None:
        raise OutputError(
            f"{out} holds {other}, which is no part of the bundle and would be lost; move it away"
        )


def _no_part_of_it(place: Path) -> str | None:
    """A file in a bundle's folder that its contract does not list, as a subject; None where that cannot be read."""
    try:
        listed = set(parse_json(read_bounded(place / CONTRACT_NAME, MAX_CONTRACT_BYTES))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    listed |= {CONTRACT_NAME, "README.md"}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if not path.is_dir() and name not in listed and not f"/{name}".count("/."):
            return name
    return None


@contextmanager
def filled_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder; it becomes `out` when the block succeeds and vanishes when it fails.

    Raises:
        OutputError: see `check_place`, or something unmarked stands where the folder is filled.
    """
    check_place(out, overwrite)
    partial, place = partial_place(out), _behind_links(out)
    try:
        _check_idle(partial, out)
        _remove_left(partial)
        _remove_old(out)
        partial.mkdir()
        try:
            _mark(partial)
            with held_file(partial / MARKER):
                yield partial
                check_place(out, overwrite)
                _swap_in(partial, place)
        finally:
            # An error here must not cover the one that ended the block.
            with suppress(OSError, OutputError):
                _remove_left(partial)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error


def _check_idle(partial: Path, out: Path) -> None:
    """Raises: OutputError where a process that lives fills the folder."""
    if not (partial / MARKER).is_file():
        return
    with held_file(partial / MARKER) as idle:
        if not idle:
            raise OutputError(
                f"{out} is being written by another export; wait for it, or choose another name"
            )


def _mark(folder: Path) -> None:
    (folder / MARKER).write_text("an unfinished bundle; the next export removes it\n", encoding="utf-8")


def _remove_left(folder: Path) -> None:
    """What a killed run left: the marker goes last, so that a second kill leaves it marked or empty."""
    if not folder.exists():
        return
    inside = list(folder.iterdir())
    if inside and not (folder / MARKER).is_file():
        raise OutputError(f"{folder} is in the way and was not left by an export; move it away")
    for path in inside:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    (folder / MARKER).unlink(missing_ok=True)
    folder.rmdir()


def _remove_old(out: Path) -> None:
    """What was moved aside, by way of the other hidden name: half of it must never come back."""
    old, partial = _old_place(out), partial_place(out)
    if not old.exists():
        return
    if any(old.iterdir()) and not (old / MARKER).is_file():
        raise OutputError(f"{old} is in the way and was not left by an export; move it away")
    old.rename(partial)
    _remove_left(partial)


def _swap_in(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
    elif not any(out.iterdir()):
        out.rmdir()
        partial.rename(out)
    else:
        _mark(out)
        if not _exchange(partial, out):
            old = _old_place(out)
            out.rename(old)
            try:
                partial.rename(out)
            except OSError:
                old.rename(out)
                raise
            _remove_old(out)
    (out / MARKER).unlink()


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders trade places in one step; False where the system or the file system cannot."""
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "linux":
        swap = getattr(ctypes.CDLL(None), "renameat2", None)
        return swap is not None and swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    if sys.platform == "darwin":
        swap = getattr(ctypes.CDLL(None), "renamex_np", None)
        return swap is not None and swap(names[0], names[1], _RENAME_EXCHANGE) == 0
    return False
