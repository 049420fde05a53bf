"""The memory sampler tells private from file-backed memory, in another process, and enforces a budget on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreamcache.benchmarks.process.sampler import MemoryPeak, MemorySampler
from dreamcache.runtime.sessions.system_memory import parse_status

HOLD = "import sys, time; {setup}; print('ready', flush=True); sys.stdin.read()"
MEGABYTES = 200


def peak_of(setup: str) -> MemoryPeak:
    """The peaks of a Python process that runs `setup` and then waits."""
    command = [sys.executable, "-c", HOLD.format(setup=setup)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sampler = MemorySampler(process.pid).start()
        while len(sampler.readings) < 3:
            pass
        peak = sampler.stop()
        process.communicate()
    return peak


def test_allocated_memory_is_private() -> None:
    idle = peak_of("pass")
    busy = peak_of(f"held = bytearray(b'1') * ({MEGABYTES} * 10**6)")
    assert busy.private_mb - idle.private_mb == pytest.approx(MEGABYTES, rel=0.05)
    assert busy.resident_mb >= busy.private_mb


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="file-backed memory is read from /proc")
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


@pytest.mark.parametrize(("limit_mb", "dies"), [(150, True), (600, False)])
def test_the_watchdog_kills_what_allocates_more_than_its_budget(limit_mb: float, dies: bool) -> None:
    setup = f"held = bytearray(b'1') * ({MEGABYTES} * 10**6)"
    command = [sys.executable, "-c", HOLD.format(setup=setup)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        sampler = MemorySampler(process.pid, limit_mb).start()
        assert process.stdout is not None
        ready = process.stdout.readline()
        if ready:
            # The kill comes at the latest with the next sample.
            read = len(sampler.readings)
            while not sampler.killed and len(sampler.readings) < read + 2:
                time.sleep(0.01)
        peak = sampler.stop()
        process.communicate()
    assert sampler.killed == dies
    assert process.returncode == (-signal.SIGKILL if dies else 0)
    assert (peak.private_mb > limit_mb) == dies


def test_what_is_swapped_out_or_shared_still_counts_as_private() -> None:
    status = "Name:\tx\nVmHWM:\t 9000 kB\nVmRSS:\t 7000 kB\nRssAnon:\t 4000 kB\nRssFile:\t 2000 kB\n"
    reading = parse_status(status + "RssShmem:\t 1000 kB\nVmSwap:\t 500 kB\n", 1.0)
    assert reading.private_mb == pytest.approx(5500 * 1024 / 1e6)
    assert reading.file_backed_mb == pytest.approx(2000 * 1024 / 1e6)
    assert reading.highest_resident_mb == pytest.approx(9000 * 1024 / 1e6)
    with pytest.raises(KeyError):
        parse_status("Name:\tx\nState:\tZ (zombie)\n", 1.0)
