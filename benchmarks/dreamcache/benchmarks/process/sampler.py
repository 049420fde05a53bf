"""Memory of another process, sampled while it runs.

Private memory is anonymous and shared-memory pages, resident or swapped out: what a system under pressure cannot
drop. File-backed memory is mapped from files and can be dropped and read again. On Linux both come from the counters
of /proc/PID/status (proc(5)), which cost the measured process nothing; elsewhere psutil's unique set size stands for
private memory and file-backed memory is not told apart. Peaks are of samples, but for the resident peak the kernel's
own high-water mark is used where there is one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

MB = 1e6
INTERVAL_S = 0.005


@dataclass(frozen=True)
class MemoryReading:
    """MB (10⁶ bytes) of one process at one moment; `at_s` is on the clock of time.monotonic()."""

    at_s: float
    private_mb: float
    file_backed_mb: float | None
    resident_mb: float
    highest_resident_mb: float


@dataclass(frozen=True)
class MemoryPeak:
    """Peaks in MB (10⁶ bytes), each by itself; `samples` says how many times memory was read."""

    private_mb: float
    file_backed_mb: float | None
    resident_mb: float
    samples: int


def read_memory(pid: int) -> MemoryReading:
    """The memory of a process now.

    Raises: ProcessLookupError when the process is gone.
    """
    status = Path(f"/proc/{pid}/status")
    if Path("/proc/self/status").exists():
        try:
            return parse_status(status.read_text(), time.monotonic())
        except (FileNotFoundError, KeyError) as error:
            raise ProcessLookupError(pid) from error
    import psutil

    try:
        info = psutil.Process(pid).memory_full_info()
    except psutil.Error as error:
        raise ProcessLookupError(pid) from error
    resident = info.rss / MB
    return MemoryReading(time.monotonic(), info.uss / MB, None, resident, resident)


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
                os.kill(self.pid, signal.SIGKILL)
                return
            if self._stopped.wait(INTERVAL_S):
                return

    def stop(self) -> MemoryPeak:
        """End and return the peaks.

        Raises RuntimeError when the process was gone before it could be read once.
        """
        self._stopped.set()
        self._thread.join()
        if not self.readings:
            raise RuntimeError(f"process {self.pid} ended before its memory could be read")
        files = [reading.file_backed_mb for reading in self.readings if reading.file_backed_mb is not None]
        return MemoryPeak(
            private_mb=max(reading.private_mb for reading in self.readings),
            file_backed_mb=max(files) if files else None,
            resident_mb=max(reading.highest_resident_mb for reading in self.readings),
            samples=len(self.readings),
        )
