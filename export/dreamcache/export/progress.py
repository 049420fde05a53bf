"""Stages of an export, for its progress bar."""

from __future__ import annotations

from collections.abc import Callable

from dreamcache.runtime.progress import StageProgress

TellStage = Callable[[str], None]
"""Called with what begins."""

STAGES = 10


class Stages:
    """Counts stages for the progress bar."""

    def __init__(self, progress: StageProgress | None = None) -> None:
        self._progress = progress
        self._done = -1
        self._title = ""

    def __call__(self, title: str) -> None:
        self._title = title
        self.tick()

    def tick(self) -> None:
        self._done = min(self._done + 1, STAGES - 1)
        if self._progress is not None:
            self._progress(self._title, self._done, STAGES)

    def inside(self, title: str, done: int, total: int) -> None:
        """A stage that counts for itself."""
        if self._progress is not None:
            self._progress(title, done, total)

    def note(self, title: str) -> None:
        """A part of the present stage."""
        self.inside(title, self._done, STAGES)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress("done", STAGES, STAGES)
