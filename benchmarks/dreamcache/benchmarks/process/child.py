"""A fresh measured process, from outside: start it, ask it, read its memory, end it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamcache.runtime.errors import DreamCacheError
from dreamcache.runtime.sessions.profiles import Profile, check_profile
from dreamcache.runtime.sessions.providers import Math, check_math, choose_providers, short_name
from dreamcache.runtime.sessions.session import check_threads
from dreamcache.runtime.sessions.system import module_command

_PATIENCE_S = 30
_MODULE = "dreamcache.benchmarks.process.worker"


class MeasurementError(DreamCacheError, RuntimeError):
    """The measured process refused or ended before it answered."""


class ProcessDiedError(MeasurementError):
    """The measured process was killed, or ended by itself, before it answered; status as `Popen.returncode`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class LoadSettings:
    """How a bundle is loaded, as `Pipeline.load` takes it; providers in order of preference.

    graphs: where the memory profile keeps optimised graphs; None is the runner's own place.
    """

    profile: Profile = "speed"
    providers: tuple[str, ...] = ("cpu",)
    threads: int | None = None
    graphs: Path | None = None
    math: Math = "exact"


def checked_settings(
    profile: str, providers: Sequence[str] | None = None, threads: int | None = None, math: str = "exact"
) -> LoadSettings:
    """Settings as a command line gives them, refused before any process is started.

    Raises: SettingsError for a profile that does not exist, a provider that is absent, threads below 1, fast math where
    nothing would be faster.
    """
    chosen = choose_providers(providers or None)
    names = tuple(map(short_name, chosen))
    return LoadSettings(check_profile(profile), names, check_threads(threads), math=check_math(math, chosen))


class MeasuredProcess:
    """A worker in an interpreter of its own.

    wrapper: a command that starts the interpreter it is given, for running it under a limit.
    """

    def __init__(self, wrapper: Sequence[str] = ()) -> None:
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [*wrapper, *module_command(_MODULE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Process id of the measured process."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """Run one method of `worker.Worker` there and return its answer.

        Raises: MeasurementError with the worker's own words; ProcessDiedError when it is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # Windows says EINVAL
            line = ""
        if not line:
            status = self._process.wait(_PATIENCE_S)
            message = f"the measured process ended during {do!r}: {self._last_words(status)}"
            raise ProcessDiedError(message, status)
        reply = json.loads(line)
        if "error" in reply:
            raise MeasurementError(reply["error"])
        return reply["answer"]

    def load(self, bundle: Path, settings: LoadSettings, graph: str | None = None) -> float:
        """Import the libraries, then load; returns the milliseconds of the loading alone."""
        self.ask("import_libraries")
        (taken,) = self.ask(
            "load",
            bundle=str(bundle),
            profile=settings.profile,
            providers=list(settings.providers),
            threads=settings.threads,
            math=settings.math,
            graph=graph,
            graphs=None if settings.graphs is None else str(settings.graphs),
        )
        return float(taken)

    def __enter__(self) -> MeasuredProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            # An interrupted run does not wait for the call under way.
            self._process.wait(_PATIENCE_S if kind is None else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def _last_words(self, status: int) -> str:
        if status < 0:
            return f"killed by signal {-status}"
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {status}, without a word"
