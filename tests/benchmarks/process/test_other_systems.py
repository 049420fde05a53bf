"""Memory and signals where there is no /proc, no psutil, no SIGKILL: the calls of the system are patched."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from typing import Any

import psutil
import pytest

from dreamcache.benchmarks.process import sampler
from dreamcache.benchmarks.process.child import MeasurementError
from dreamcache.benchmarks.process.sampler import MemorySampler
from dreamcache.runtime.sessions import system, system_memory


def refused(*_: Any) -> None:
    raise psutil.AccessDenied(os.getpid())


def test_private_memory_by_psutil() -> None:
    reading = system_memory._read_elsewhere(os.getpid())
    assert reading.is_private
    assert 1 < reading.private_mb <= reading.resident_mb
    assert reading.file_backed_mb is None


def test_where_the_system_refuses_resident_memory_stands_for_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "memory_full_info", refused)
    reading = system_memory._read_elsewhere(os.getpid())
    assert not reading.is_private
    assert reading.private_mb == reading.resident_mb > 1
    monkeypatch.setattr(psutil.Process, "memory_info", refused)
    with pytest.raises(ProcessLookupError):
        system_memory._read_elsewhere(os.getpid())


def test_without_psutil_ps_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=b" 204800\n")
    )
    reading = system_memory._read_elsewhere(os.getpid())
    assert (reading.resident_mb, reading.is_private) == (pytest.approx(209.7, abs=0.1), False)

    def absent(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("ps")

    monkeypatch.setattr(subprocess, "run", absent)
    monkeypatch.setattr(sampler, "read_memory", system_memory._read_elsewhere)
    with pytest.raises(MeasurementError, match=r"install psutil: pip install 'dreamcache\[bench\]'"):
        MemorySampler(os.getpid()).start().stop()


def test_a_budget_is_kept_without_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no SIGKILL, and its SIGTERM ends a process at once."""
    monkeypatch.delattr(signal, "SIGKILL")
    try:
        elsewhere = importlib.reload(system)
        with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
            elsewhere.kill_process(process.pid)
            assert process.wait(10) in elsewhere.KILLED_STATUSES
        elsewhere.kill_process(process.pid)  # gone: no error
    finally:
        monkeypatch.undo()
        importlib.reload(system)
    assert -signal.SIGKILL in system.KILLED_STATUSES
