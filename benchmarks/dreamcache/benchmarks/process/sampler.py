"""Memory of another process, sampled while it runs.

Peaks are of samples (`system_memory.py` says what each counts), but for the resident peak the kernel's own high-water
mark is used where there is one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from dreamcache.benchmarks.process.child import MeasurementError
from dreamcache.runtime.sessions.system import kill_process
from dreamcache.runtime.sessions.system_memory import MemoryReading, read_memory

INTERVAL_S = 0.005


@dataclass(frozen=True)
class MemoryPeak:
    """Peaks in MB (10⁶ bytes), each by itself; `samples` says how many times memory was read; is_private: as in
    `MemoryReading`."""

    private_mb: float
    file_backed_mb: float | None
    resident_mb: float
    samples: int
    is_private: bool = True


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
