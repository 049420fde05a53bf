"""Giving freed memory back to the system, where the C library keeps it.

glibc keeps what is freed below the top of its heap, and so a process's private memory stays at the sum of what
stages took at different places. `malloc_trim` (malloc_trim(3)) gives back every whole free page.
"""

from __future__ import annotations

import ctypes
import sys


def release_freed() -> bool:
    """Give free pages of the heap back; False where the C library has no such call."""
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # musl
        return False
    trim(ctypes.c_size_t(0))
    return True
