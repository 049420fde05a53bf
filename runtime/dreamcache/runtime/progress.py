"""Progress on stderr, for everything that may take longer than two seconds.

`progress_bar` counts, `track` counts what a loop runs over, `stage_bar` names stage after stage.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

Progress = Callable[[int, int], None]
"""Called with the number done and the total."""

StageProgress = Callable[[str, int, int], None]
"""Called with the name of the stage that begins, the number done and the total."""

_PATIENCE_S = 0.5


class ProgressBar:
    """One bar. It appears after half a second, and only where stderr is a terminal."""

    def __init__(self, title: str, shown: bool = True) -> None:
        # rich loads with the first bar: this module's types are imported by code that draws none
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Columns

        console = Console(stderr=True)
        self.drawable = shown and console.is_terminal
        name, values = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[values]}")
        columns = (name, BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), values)
        self._bar = Columns(*columns, console=console, transient=True, disable=not self.drawable)
        self._task = self._bar.add_task(title, total=None, values="")
        self._begin = time.monotonic()

    def __call__(self, done: int, total: int | None, **values: float) -> None:
        """Move to `done` of `total`; `values` are shown after the bar by name: `loss=0.25`."""
        self._start()
        text = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self._bar.update(self._task, completed=done, total=total, values=text)

    def rename(self, title: str) -> None:
        """Change the title."""
        self._bar.update(self._task, description=title)

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()

    def _start(self) -> None:
        if self.drawable and not self._bar.live.is_started and time.monotonic() - self._begin > _PATIENCE_S:
            self._bar.start()


@contextmanager
def progress_bar(title: str, shown: bool = True) -> Iterator[ProgressBar]:
    """A bar that is moved by calling it: `advance(done, total, loss=0.25)`; it goes when the block ends."""
    bar = ProgressBar(title, shown)
    try:
        yield bar
    finally:
        bar.stop()


def track(items: Iterable[Item], title: str, total: int | None = None, shown: bool = True) -> Iterator[Item]:
    """The items, counted by a bar while a loop runs over them; total: how many, where they have no length."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with progress_bar(title, shown) as advance:
        for done, item in enumerate(items):
            yield item
            advance(done + 1, total)


@contextmanager
def stage_bar() -> Iterator[StageProgress]:
    """A bar that names its stage. Where stderr is not a terminal, each stage that begins is one line."""
    bar, last = ProgressBar(""), ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        if not bar.drawable and stage != last:
            sys.stderr.write(f"{stage}\n")
        last = stage
        bar.rename(stage)
        bar(done, total)

    try:
        yield show
    finally:
        bar.stop()
