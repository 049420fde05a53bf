"""The memory sampler tells private from file-backed memory, in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dreamcache.benchmarks.memory import MemoryPeak, MemorySampler

HOLD = "import sys, time; {setup}; print('ready', flush=True); sys.stdin.read()"
MEGABYTES = 200


def peak_of(setup: str) -> MemoryPeak:
    """The peaks of a Python process that runs `setup` and then waits."""
    command = [sys.executable, "-c", HOLD.format(setup=setup)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sampler = MemorySampler(process.pid).start()
        while len(sampler._readings) < 3:
            pass
        peak = sampler.stop()
        process.communicate()
    return peak


def test_allocated_memory_is_private() -> None:
    idle = peak_of("pass")
    busy = peak_of(f"held = bytearray(b'1') * ({MEGABYTES} * 10**6)")
    assert busy.private_mb - idle.private_mb == pytest.approx(MEGABYTES, rel=0.05)
    assert busy.resident_mb >= busy.private_mb


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="file-backed memory is read from /proc"
)
def test_a_mapped_file_is_not_private(tmp_path: Path) -> None:
    file = tmp_path / "mapped"
    file.write_bytes(b"1" * MEGABYTES * 10**6)
    setup = (
        f"import mmap; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ);"
        " s = sum(m[i] for i in range(0, len(m), 4096))"
    )
    idle, mapped = peak_of("import mmap"), peak_of(setup)
    assert mapped.file_backed_mb is not None
    assert idle.file_backed_mb is not None
    assert mapped.file_backed_mb - idle.file_backed_mb == pytest.approx(MEGABYTES, rel=0.1)
    assert abs(mapped.private_mb - idle.private_mb) < 0.1 * MEGABYTES


def test_a_process_that_is_gone_is_said_to_be_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        process.wait()
    sampler = MemorySampler(process.pid).start()
    sampler._thread.join()
    with pytest.raises(RuntimeError, match="ended before"):
        sampler.stop()
