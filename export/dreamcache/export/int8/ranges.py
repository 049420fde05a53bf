"""From activations that were seen to the interval that 8 bits stand for.

Sampled values of every run are kept, and the interval is the one with the least squared error on them: wide enough
for what matters, narrow enough that single outliers do not cost everybody a bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.int8.formats import Range

SAMPLES_A_RUN = 4096
_SHRINKS = np.linspace(0.3, 1.0, 29)

Array = NDArray[np.float32]


class Observer:
    """Collects values of tensors over many runs."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._values: dict[str, list[Array]] = {}

    def see(self, tensors: Mapping[str, Array]) -> None:
        """Keep a sample of each tensor, its least and its greatest value."""
        for name, array in tensors.items():
            flat = array.ravel()
            if len(flat) > SAMPLES_A_RUN:
                picked = flat[self._random.integers(0, len(flat), SAMPLES_A_RUN)]
                flat = np.concatenate([picked, [flat.min(), flat.max()]]).astype(np.float32)
            self._values.setdefault(name, []).append(flat.copy())

    def ranges(self) -> dict[str, Range]:
        """The best interval of every tensor seen.

        Raises:
            ValueError: a tensor held NaN or infinite values.
        """
        found = {}
        for name, seen in self._values.items():
            values = np.concatenate(seen)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} took NaN or infinite values")
            found[name] = best_range(values)
        return found


def best_range(values: Array) -> Range:
    """The interval with the least squared error on `values` [n] after rounding to 256 levels."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if low == high:
        return Range(0.0, 1.0)
    best = Range(low, high)
    least = squared_error(values, best)
    for shrink_low in (True, False):
        start = best
        for shrink in _SHRINKS:
            tried = (
                Range(start.low * shrink, start.high) if shrink_low else Range(start.low, start.high * shrink)
            )
            error = squared_error(values, tried)
            if error < least:
                best, least = tried, error
    return best


def squared_error(values: Array, interval: Range) -> float:
    """Mean squared error of `values` [n] rounded to the interval's 256 levels."""
    scale, zero = float(interval.scale), float(interval.zero_point)
    codes = np.clip(np.round(values / scale) + zero, 0, 255)
    return float(np.mean((values - (codes - zero) * scale) ** 2))
