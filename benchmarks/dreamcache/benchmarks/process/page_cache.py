"""Dropping a bundle's files from the page cache, so that a cold load reads them from storage.

posix_fadvise(POSIX_FADV_DONTNEED) needs no privilege, but is only advice, and skips pages that are mapped somewhere.
So residency is asked for afterwards with mincore(2), which reads nothing; probing with preadv2(RWF_NOWAIT) would start
the reads that it must not wait for. What cannot be dropped, or cannot be seen, makes the cold load absent: it is never
taken from a warm cache.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_RESIDENT_AT_MOST = 0.02
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def drop_from_page_cache(files: Sequence[Path], whole_machine: bool = True) -> str | None:
    """Drop files from the page cache; None when that is done, else why it is not.

    whole_machine: where advice does not do it and privilege allows, drop everything that is clean.
    """
    if not hasattr(os, "posix_fadvise"):
        return "this system cannot drop files from its cache"
    try:
        _advise(files)
        if resident_share(files) > _RESIDENT_AT_MOST:
            if whole_machine:
                _drop_everything()
            if resident_share(files) > _RESIDENT_AT_MOST:
                return "the files stayed in the page cache; another process may have them mapped"
    except OSError as error:
        return f"the page cache could not be dropped and seen ({error.strerror})"
    return None


def resident_share(files: Sequence[Path]) -> float:
    """The share of the files' pages that are in the page cache.

    Raises: OSError where the system does not say. Linux calls every page of a file resident that belongs to others.
    """
    pages = [_resident(path, path.stat().st_size) for path in files]
    return float(np.concatenate(pages).mean()) if pages else 0.0


def _advise(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            # Dirty pages are not dropped; a bundle that was just written still has some.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _resident(path: Path, size: int) -> NDArray[np.bool_]:
    """Whether each page of a file is in the page cache, [pages]."""
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    if size:
        libc = ctypes.CDLL(None, use_errno=True)
        # A private, writable mapping, because ctypes takes the address of no other; nothing is written.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            first = ctypes.c_char.from_buffer(mapped)
            failed = libc.mincore(
                ctypes.byref(first), ctypes.c_size_t(size), pages.ctypes.data_as(ctypes.c_void_p)
            )
            del first
        if failed:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # The lowest bit says it; the others are reserved.
    return (pages & 1).astype(np.bool_)


def _drop_everything() -> None:
    """Root may drop the whole machine's clean cache; nobody else may, and that is no error."""
    try:
        _DROP_CACHES.write_text("1")
    except OSError:
        return
