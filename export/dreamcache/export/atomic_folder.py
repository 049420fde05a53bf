"""A folder that appears whole or not at all.

It is filled beside its place, under a hidden name and with a marker inside, and renamed in at the end. A run
that was killed leaves a marked folder, which the next run removes; an unmarked one is never touched.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamcache.runtime.bundle.contract import CONTRACT_NAME
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.files import check_output

MARKER = ".dreamcache-partial"


def partial_place(out: Path) -> Path:
    """Where the folder for `out` is filled."""
    return out.absolute().parent / f".{out.name}.partial"


def check_place(out: Path, overwrite: bool) -> None:
    """Look at the place before any work is done for it.

    Raises:
        OutputError: it is taken, and overwriting was not asked for or would replace something else than a
            bundle; or the folder it goes into does not exist.
    """
    check_output(out, overwrite)
    if out.is_dir() and any(out.iterdir()) and not (out / CONTRACT_NAME).is_file():
        raise OutputError(
            f"{out} holds something else than a bundle and is not replaced; choose another name"
        )
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file and a bundle is a folder; choose another name")


@contextmanager
def filled_folder(out: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder; it becomes `out` when the block succeeds and vanishes when it fails.

    Raises:
        OutputError: see `check_place`, or something unmarked stands where the folder is filled.
    """
    check_place(out, overwrite)
    partial = partial_place(out)
    if partial.exists():
        if not (partial / MARKER).is_file():
            raise OutputError(f"{partial} is in the way and was not left by an export; move it away")
        shutil.rmtree(partial)
    try:
        partial.mkdir()
        (partial / MARKER).write_text("an unfinished bundle; the next export removes it\n", encoding="utf-8")
        yield partial
        (partial / MARKER).unlink()
        check_place(out, overwrite)
        _swap_in(partial, out)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _swap_in(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    # The old bundle goes only once the new one stands.
    old = partial.with_name(f"{partial.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
