"""Memory of another process, sampled while it runs.

Private memory is anonymous memory (heap, stacks, what a system under pressure cannot drop); file-backed memory is
mapped from files and can be dropped and read again. On Linux both come from /proc/PID/smaps_rollup (proc(5));
elsewhere psutil's unique set size stands for private memory and file-backed memory is not told apart.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 1e6
INTERVAL_S = 0.01


@dataclass(frozen=True)
class MemoryPeak:
    """Peaks in MB (10⁶ bytes), each by itself; `samples` says how many times memory was read."""

    private_mb: float
    file_backed_mb: float | None
    resident_mb: float
    samples: int


def read_memory(pid: int) -> tuple[float, float | None, float]:
    """Private, file-backed (None where it cannot be told apart) and resident MB of a process now.

    Raises psutil.NoSuchProcess or ProcessLookupError when the process is gone.
    """
    rollup = Path(f"/proc/{pid}/smaps_rollup")
    if rollup.exists():
        fields = {}
        for line in rollup.read_text().splitlines()[1:]:
            name, _, rest = line.partition(":")
            fields[name] = int(rest.split()[0]) * 1024 / MB
        if not fields:
            raise ProcessLookupError(pid)
        return fields["Anonymous"], fields["Rss"] - fields["Anonymous"], fields["Rss"]
    info = psutil.Process(pid).memory_full_info()
    return info.uss / MB, None, info.rss / MB


class MemorySampler:
    """Samples a process every ten milliseconds between `start` and `stop`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._readings: list[tuple[float, float | None, float]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> MemorySampler:
        """Begin."""
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            try:
                self._readings.append(read_memory(self.pid))
            except (OSError, psutil.Error):
                return

    def stop(self) -> MemoryPeak:
        """End and return the peaks.

        Raises RuntimeError when the process was gone before it could be read once.
        """
        self._stopped.set()
        self._thread.join()
        if not self._readings:
            raise RuntimeError(f"process {self.pid} ended before its memory could be read")
        files = [reading[1] for reading in self._readings if reading[1] is not None]
        return MemoryPeak(
            private_mb=max(reading[0] for reading in self._readings),
            file_backed_mb=max(files) if files else None,
            resident_mb=max(reading[2] for reading in self._readings),
            samples=len(self._readings),
        )
