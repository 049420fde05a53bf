"""Running a process under a memory budget that is enforced: by a control group of Linux where one can be made, else by
a watchdog.

A control group (cgroup v2, kernel documentation admin-guide/cgroup-v2) counts private memory and the file cache the
process brings in; the kernel drops the cache under pressure and kills only when that does not help. Swap is off. The
watchdog sees private memory alone, every five milliseconds, and kills.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreamcache.benchmarks.process.child import MeasuredProcess, ProcessDiedError
from dreamcache.benchmarks.process.sampler import MemoryPeak, MemorySampler
from dreamcache.runtime.sessions.system import KILLED_STATUSES
from dreamcache.runtime.sessions.system_memory import MB

CGROUP = "cgroup memory.max (private memory and file cache), swap off"
WATCHDOG = "watchdog on private memory"
WATCHDOG_RESIDENT = "watchdog on resident memory: this system does not say what of it is private"

# The shell joins the group before it becomes the interpreter, so that every page is charged to it.
_JOIN = ("/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')


@dataclass(frozen=True)
class Outcome:
    """finished: the job came to its end. killed: by the limit. group_mb: the kernel's own peak of the group."""

    finished: bool
    killed: bool
    peak: MemoryPeak
    enforced_by: str
    group_mb: float | None = None


def run_limited(
    job: Callable[[MeasuredProcess], None], budget_mb: float | None, parent: Path | None = None
) -> Outcome:
    """Run `job` with a fresh process under a budget, or under none.

    parent: where a control group may be made, see `usable_parent`; without one the watchdog enforces.
    Raises: MeasurementError when the process fails for another reason than memory.
    """
    if budget_mb is None or parent is None:
        return _watched(job, budget_mb)
    with control_group(parent, budget_mb) as group:
        with MeasuredProcess((*_JOIN, str(group))) as process:
            finished, peak = _run(job, process, MemorySampler(process.pid))
        killed = _events(group).get("oom_kill", 0) > 0
        highest = group / "memory.peak"
        group_mb = int(highest.read_text(encoding="utf-8")) / MB if highest.exists() else None
    return Outcome(finished and not killed, killed, peak, CGROUP, group_mb)


def _watched(job: Callable[[MeasuredProcess], None], budget_mb: float | None) -> Outcome:
    with MeasuredProcess() as process:
        sampler = MemorySampler(process.pid, budget_mb)
        finished, peak = _run(job, process, sampler)
    # The last page may be taken between two samples, after which the job ends by itself.
    watchdog = WATCHDOG if peak.is_private else WATCHDOG_RESIDENT
    return Outcome(finished and not sampler.killed, sampler.killed, peak, watchdog)


def _run(
    job: Callable[[MeasuredProcess], None], process: MeasuredProcess, sampler: MemorySampler
) -> tuple[bool, MemoryPeak]:
    sampler.start()
    try:
        job(process)
        finished = True
    except ProcessDiedError as error:
        if error.status not in KILLED_STATUSES:
            raise
        finished = False
    return finished, sampler.stop()


@contextmanager
def control_group(parent: Path, budget_mb: float) -> Iterator[Path]:
    """A fresh group below `parent` with the budget and no swap; removed at the end. Raises: OSError."""
    group = parent / f"dreamcache-fit-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(int(budget_mb * MB)), encoding="utf-8")
        # Absent where the kernel was built or booted without swap accounting.
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0", encoding="utf-8")
        yield group
    finally:
        group.rmdir()


def usable_parent() -> Path | None:
    """A group under which this process may make groups with a memory limit; None where there is none."""
    mounts, membership = _text(Path("/proc/mounts")), _text(Path("/proc/self/cgroup"))
    for parent in candidates(mounts, membership):
        if "memory" in _text(parent / "cgroup.subtree_control").split() and _works(parent):
            return parent
    return None


def candidates(mounts: str, membership: str) -> list[Path]:
    """This process's own group of the v2 hierarchy and those above it, from the texts of /proc."""
    points = [fields[1] for line in mounts.splitlines() if (fields := line.split())[2] == "cgroup2"]
    paths = [line[3:] for line in membership.splitlines() if line.startswith("0::/")]
    if not points or not paths:
        return []
    top, own = Path(points[0]), Path(points[0]) / paths[0].lstrip("/")
    return [own, *(above for above in own.parents if above.is_relative_to(top))]


def _works(parent: Path) -> bool:
    """Whether a process can be put into a group made there."""
    try:
        with control_group(parent, 100.0) as group:
            joined = subprocess.run([*_JOIN, str(group), "true"], capture_output=True, check=False)
            return joined.returncode == 0 and os.access(group / "memory.events", os.R_OK)
    except OSError:
        return False


def _events(group: Path) -> dict[str, int]:
    lines = (group / "memory.events").read_text(encoding="utf-8").splitlines()
    return {name: int(count) for name, count in (line.split() for line in lines)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
