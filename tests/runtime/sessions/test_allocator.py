"""The C library gives memory back as the profiles ask."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Runs in a process of its own: what another test has told the C library holds for the whole process.
FREED = """
from pathlib import Path
import numpy as np
from dreamcache.runtime.sessions.allocator import map_large_blocks, release_freed, reuse_freed_blocks

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

assert SETTING()
# A freed block of 20 MB would raise the threshold, and the next ones share the heap with what stays.
large = [np.ones(20_000_000, np.uint8) for _ in range(5)]
large = [np.ones(20_000_000 if i % 2 else 2_000, np.uint8) for i in range(10)]
held = resident_mb()
large = large[::2]
print(held - resident_mb())
# Small blocks, of which every hundredth stays: the heap's top never comes down by itself.
blocks = [np.ones(10_000, np.uint8) for _ in range(10_000)]
kept, blocks = blocks[::100], []
held = resident_mb()
assert release_freed()
print(held - resident_mb())
"""


def freed_mb(setting: str) -> list[float]:
    run = subprocess.run(
        [sys.executable, "-c", FREED.replace("SETTING", setting)], capture_output=True, text=True, check=True
    )
    return [float(line) for line in run.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's malloc")
def test_freed_memory_is_given_back() -> None:
    at_once, after_trim = freed_mb("map_large_blocks")
    assert at_once > 90
    assert after_trim > 50
    # Where blocks are kept for the next one, nothing goes back by itself.
    at_once, _ = freed_mb("reuse_freed_blocks")
    assert at_once < 10
