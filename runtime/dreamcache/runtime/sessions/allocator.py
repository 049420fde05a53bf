"""Giving freed memory back to the system, where the C library keeps it; or keeping it, where speed is all.

glibc keeps what is freed below the top of its heap, and so a process's private memory stays at the sum of what
stages took at different places. `malloc_trim` (malloc_trim(3)) gives back every whole free page. Large blocks
are better mapped by themselves; glibc does that at first, but raises its threshold to the size of what it has
seen freed, up to 32 MiB, unless it is set (mallopt(3)).
"""

from __future__ import annotations

import ctypes
import sys

LARGE_BLOCK_BYTES = 1 << 20
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4


def map_large_blocks(least_bytes: int = LARGE_BLOCK_BYTES) -> bool:
    """From now on, in the whole process, map large blocks by themselves, so that they go when they are freed.

    Maps and weights then leave no holes; each new block costs its page faults.
    False where the C library has no such setting.
    """
    return _mallopt(_M_MMAP_THRESHOLD, least_bytes)


def reuse_freed_blocks() -> bool:
    """From now on, in the whole process, keep what is freed for the next block, however large.

    Without this every large map of a network in PyTorch is mapped, cleared page by page and given back each time:
    a quarter of the time of SD's VAE. False where the C library has no such setting.
    """
    return _mallopt(_M_MMAP_MAX, 0) and _mallopt(_M_TRIM_THRESHOLD, -1)


def _mallopt(parameter: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(parameter, value) == 1


def release_freed() -> bool:
    """Give free pages of the heap back; False where the C library has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # musl
        return False
    trim(ctypes.c_size_t(0))
    return True
