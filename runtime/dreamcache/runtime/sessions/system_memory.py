"""What the system says of memory: of a process, of the machine, and what is free; marked where a system says less.

Private memory is anonymous and shared-memory pages, resident or swapped out: what a system under pressure cannot
drop. File-backed memory is mapped from files and can be dropped and read again. On Linux both come from the counters
of /proc/PID/status (proc(5)), which cost the measured process nothing; elsewhere psutil's unique set size stands for
private memory and file-backed memory is not told apart.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

MB = 1e6


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


def installed_memory() -> int | None:
    """Bytes of memory of the machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def free_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Bytes that a new allocation can have: of the machine, and of the process's control group if it is limited.

    None where the system does not say.
    """
    found = [bytes_ for bytes_ in (_machine_memory(meminfo), _group_memory(group)) if bytes_ is not None]
    return min(found) if found else None


def _machine_memory(meminfo: Path) -> float | None:
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return float(line.split()[1]) * 1024
    return installed_memory()


def _group_memory(group: Path) -> float | None:
    """What the control group's limit leaves; cached files count as free, since they are given back."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = float((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return float(limit) - used + float(stat.get("inactive_file", 0))
