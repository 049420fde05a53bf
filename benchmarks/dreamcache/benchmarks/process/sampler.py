"""Memory of another process, sampled while it runs.

Private memory is anonymous and shared-memory pages, resident or swapped out: what a system under pressure cannot
drop. File-backed memory is mapped from files and can be dropped and read again. On Linux both come from the counters
of /proc/PID/status (proc(5)), which cost the measured process nothing; elsewhere psutil's unique set size stands for
private memory and file-backed memory is not told apart. Peaks are of samples, but for the resident peak the kernel's
own high-water mark is used where there is one.
"""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from dreamcache.benchmarks.process.child import MeasurementError
from dreamcache.runtime.sessions.system import kill_process

MB = 1e6
INTERVAL_S = 0.005


@dataclass(frozen=True)
class MemoryReading:
    """MB (10⁶ bytes) of one process at one moment; `at_s` is on the clock of time.monotonic().

    is_private: False where the system says only what is resident, which then stands for private memory too.
    """

    at_s: float
    private_mb: float
    file_backed_mb: float | None
    resident_mb: float
    highest_resident_mb: float
    is_private: bool = True


@dataclass(frozen=True)
class MemoryPeak:
    """Peaks in MB (10⁶ bytes), each by itself; `samples` says how many times memory was read; is_private: as in
    `MemoryReading`."""

    private_mb: float
    file_backed_mb: float | None
    resident_mb: float
    samples: int
    is_private: bool = True


def read_memory(pid: int) -> MemoryReading:
    """The memory of a process now.

    Raises: ProcessLookupError when the process is gone.
    """
    status = Path(f"/proc/{pid}/status")
    if Path("/proc/self/status").exists():
        try:
            return parse_status(status.read_text(encoding="utf-8"), time.monotonic())
        except (FileNotFoundError, KeyError) as error:
            raise ProcessLookupError(pid) from error
    return _read_elsewhere(pid)


def _read_elsewhere(pid: int) -> MemoryReading:
    """The memory by psutil; where the system refuses what is private (macOS) or psutil is absent, resident memory."""
    try:
        import psutil
    except ModuleNotFoundError:
        resident = _resident_by_ps(pid)
        return MemoryReading(time.monotonic(), resident, None, resident, resident, is_private=False)
    try:
        process = psutil.Process(pid)
        resident = process.memory_info().rss / MB
        try:
            private, known = process.memory_full_info().uss / MB, True
        except psutil.AccessDenied:
            private, known = resident, False
    except psutil.Error as error:
        raise ProcessLookupError(pid) from error
    return MemoryReading(time.monotonic(), private, None, resident, resident, is_private=known)


def _resident_by_ps(pid: int) -> float:
    """Resident MB by the tool `ps` of POSIX. Raises: ProcessLookupError where it says nothing."""
    try:
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True).stdout
        return int(said) * 1024 / MB
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ProcessLookupError(pid) from error


def parse_status(text: str, at_s: float) -> MemoryReading:
    """A reading from the text of /proc/PID/status. Raises: KeyError for a process that has ended."""
    kilobytes = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            kilobytes[name] = int(rest.split()[0]) * 1024 / MB
    return MemoryReading(
        at_s=at_s,
        private_mb=kilobytes["RssAnon"] + kilobytes["RssShmem"] + kilobytes["VmSwap"],
        file_backed_mb=kilobytes["RssFile"],
        resident_mb=kilobytes["VmRSS"],
        highest_resident_mb=kilobytes["VmHWM"],
    )


class MemorySampler:
    """Samples a process every five milliseconds between `start` and `stop`.

    limit_mb: a budget of private memory; the process is killed when a sample lies above it.
    """

    def __init__(self, pid: int, limit_mb: float | None = None) -> None:
        self.pid = pid
        self.limit_mb = limit_mb
        self.killed = False
        self.readings: list[MemoryReading] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> MemorySampler:
        """Begin."""
        self._thread.start()
        return self

    def _sample(self) -> None:
        while True:
            try:
                reading = read_memory(self.pid)
            except OSError:
                return
            self.readings.append(reading)
            if self.limit_mb is not None and reading.private_mb > self.limit_mb:
                self.killed = True
                kill_process(self.pid)
                return
            if self._stopped.wait(INTERVAL_S):
                return

    def stop(self) -> MemoryPeak:
        """End and return the peaks.

        Raises: MeasurementError when it could not be read once.
        """
        self._stopped.set()
        self._thread.join()
        if not self.readings:
            raise MeasurementError(
                f"the memory of process {self.pid} could not be read, or it ended before; where there is no /proc, "
                "install psutil: pip install 'dreamcache[bench]'"
            )
        files = [reading.file_backed_mb for reading in self.readings if reading.file_backed_mb is not None]
        return MemoryPeak(
            private_mb=max(reading.private_mb for reading in self.readings),
            file_backed_mb=max(files) if files else None,
            resident_mb=max(reading.highest_resident_mb for reading in self.readings),
            samples=len(self.readings),
            is_private=all(reading.is_private for reading in self.readings),
        )
