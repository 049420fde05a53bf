"""What is said of raw samples: percentiles, spread, when warm-up is over, in which order cases alternate.

The rules and their reasons are in benchmarks/README.md, "Steady state". Samples are milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from dreamcache.benchmarks.record import Spread

UNSTABLE_ABOVE = 0.10
WARM_BLOCKS, WARM_WITHIN = 3, 0.05
P90_NEEDS = 64
SPREAD_NEEDS = 4

Name = TypeVar("Name")


def percentile(samples: Sequence[float], q: float) -> float:
    """The q-th percentile with linear interpolation (Hyndman and Fan's type 7)."""
    return float(np.percentile(np.asarray(samples, np.float64), q))


def median(samples: Sequence[float]) -> float | None:
    """None without samples."""
    return percentile(samples, 50) if samples else None


def p90(samples: Sequence[float]) -> float | None:
    """None below 64 samples: a tail that six samples describe is as far as it goes."""
    return percentile(samples, 90) if len(samples) >= P90_NEEDS else None


def spread_of(samples: Sequence[float]) -> Spread:
    """Spread of at least one sample; `unstable` when the quartiles lie more than 10 % of the median apart."""
    middle = percentile(samples, 50)
    iqr = percentile(samples, 75) - percentile(samples, 25)
    unstable = bool(iqr > UNSTABLE_ABOVE * middle) if len(samples) >= SPREAD_NEEDS else None
    return Spread(n=len(samples), median=middle, iqr=iqr, unstable=unstable)


def is_warm(blocks: Sequence[Sequence[float]]) -> bool:
    """Whether the medians of the last three blocks agree within 5 %."""
    if len(blocks) < WARM_BLOCKS:
        return False
    medians = [percentile(block, 50) for block in blocks[-WARM_BLOCKS:]]
    return max(medians) <= (1 + WARM_WITHIN) * min(medians)


def alternate(cases: Sequence[Name], rounds: int) -> Iterator[Name]:
    """A B, B A, A B …: each case once a round, so that a drift of the machine falls on all alike."""
    for index in range(rounds):
        yield from cases if index % 2 == 0 else reversed(cases)


def sustained_speeds(ends_s: Sequence[float], window_s: float) -> tuple[float, float]:
    """Calls a second in the first and in the last window of a loop that began at 0.

    ends_s: when each call ended. A call that straddles a window's border counts by the part inside.
    Raises: ValueError when the loop is shorter than two windows.
    """
    total = ends_s[-1] if ends_s else 0.0
    if total < 2 * window_s:
        raise ValueError(f"a loop of two windows of {window_s:g} s is expected, received {total:g} s")
    return _calls(ends_s, 0.0, window_s) / window_s, _calls(ends_s, total - window_s, total) / window_s


def _calls(ends_s: Sequence[float], begin: float, end: float) -> float:
    counted, start = 0.0, 0.0
    for stop in ends_s:
        inside = min(stop, end) - max(start, begin)
        if inside > 0:
            counted += inside / (stop - start)
        start = stop
    return counted
