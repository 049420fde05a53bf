"""Dropping a bundle's files from the page cache, so that a cold load reads them from storage.

posix_fadvise(POSIX_FADV_DONTNEED) needs no privilege, but is only advice, and skips pages that are mapped somewhere.
So residency is probed afterwards with preadv2(RWF_NOWAIT), which fails instead of waiting for storage. What cannot be
dropped, or cannot be probed, makes the cold load absent: it is never taken from a warm cache.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

_PAGE = 4096
_PROBES = 64
_RESIDENT_AT_MOST = 0.02
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def drop_from_page_cache(files: Sequence[Path], whole_machine: bool = True) -> str | None:
    """Drop files from the page cache; None when that is done, else why it is not.

    whole_machine: where advice does not do it and privilege allows, drop everything that is clean.
    """
    if not hasattr(os, "posix_fadvise") or not hasattr(os, "preadv"):
        return "this system cannot drop files from its cache"
    try:
        _advise(files)
        if resident_share(files) > _RESIDENT_AT_MOST:
            if whole_machine:
                _drop_everything()
            if resident_share(files) > _RESIDENT_AT_MOST:
                return "the files stayed in the page cache; another process may have them mapped"
    except OSError as error:
        return f"the page cache could not be dropped and probed ({error.strerror})"
    return None


def resident_share(files: Sequence[Path]) -> float:
    """The share of probed pages that are in the page cache, over all files by their size.

    Raises: OSError where the file system does not answer without reading.
    """
    resident = total = 0.0
    for path in files:
        size = path.stat().st_size
        if size:
            resident += _probe(path, size) * size
            total += size
    return resident / total if total else 0.0


def _advise(files: Sequence[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            # Dirty pages are not dropped; a bundle that was just written still has some.
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _probe(path: Path, size: int) -> float:
    pages = max(1, size // _PAGE)
    chosen = sorted({index * pages // _PROBES for index in range(_PROBES)})
    found = 0
    with path.open("rb") as file:
        # Probing must not read ahead: that would make resident what is probed next.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for page in chosen:
            try:
                os.preadv(file.fileno(), [bytearray(1)], page * _PAGE, os.RWF_NOWAIT)
                found += 1
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
    return found / len(chosen)


def _drop_everything() -> None:
    """Root may drop the whole machine's clean cache; nobody else may, and that is no error."""
    try:
        _DROP_CACHES.write_text("1")
    except OSError:
        return
