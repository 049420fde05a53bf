"""What is asked of the operating system, where systems differ; each question has an answer everywhere."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

# Windows has no SIGKILL; its SIGTERM ends a process at once too, with the signal's number as status.
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)
KILLED_STATUSES = (-int(_KILL), int(_KILL))
"""`Popen.returncode` of a process that `kill_process` ended, on POSIX and on Windows."""
_ENDING = ("SIGTERM", "SIGHUP")


def user_caches() -> Path:
    """The user's folder for caches; below the system's temporary folder for a user without a home."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if chosen.is_absolute():  # another one counts as none, says the XDG specification
        return chosen
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    try:
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    except RuntimeError:  # HOME is not set and the user has no entry in the system's list
        user = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir()) / f"cache-{user}"


def usable_cores() -> int:
    """Cores that this process may run on; all of them where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def kill_process(pid: int) -> None:
    """End a process at once; one that is gone already is no error."""
    with suppress(ProcessLookupError):
        os.kill(pid, _KILL)


@contextmanager
def held_file(path: Path) -> Iterator[bool]:
    """Within the block, and as long as it lives, this process alone has a file; False where another one has it.

    True too where there is no such lock: on Windows, which moves no folder with an open file in it, nothing is opened.
    Raises: OSError for a file that is absent.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            free = True
        yield free


def module_command(module: str) -> list[str]:
    """The command that runs a module in this interpreter; files in the current folder are not taken for libraries."""
    program = (
        f"import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; runpy.run_module({module!r}, "
    )
    return [sys.executable, "-c", program + "run_name='__main__', alter_sys=True)"]


@contextmanager
def ending_by_exception() -> Iterator[None]:
    """Within the block, signals that ask the process to end raise SystemExit, so that what was begun is removed."""

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        raise SystemExit(128 + number)

    before = {}
    for name in _ENDING:
        if (number := getattr(signal, name, None)) is not None:
            with suppress(ValueError):  # not in the main thread
                # what nohup ignores stays ignored
                if signal.getsignal(number) is signal.SIG_DFL:
                    before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
