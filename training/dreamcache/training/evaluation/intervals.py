"""Means with 95 % bootstrap intervals over groups: pictures of one toy, or one subject, are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval over groups."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """As a share: the mean in per cent, its interval in brackets."""
        return f"{self.mean:.1%} [{self.low:.1%}, {self.high:.1%}]"


def cluster_bootstrap(
    values: NDArray[np.float64] | Sequence[float], groups: NDArray[Any] | Sequence[str], seed: int = 0
) -> Interval:
    """The mean of the groups' means, and the percentile interval when whole groups are drawn anew.

    Every group weighs the same, however many values it has. values, groups: [n], n at least 1.
    """
    scores, labels = np.asarray(values, np.float64), np.asarray(groups)
    means = np.stack([scores[labels == group].mean() for group in np.unique(labels)])
    draws = np.random.default_rng(seed).integers(0, len(means), (DRAWS, len(means)))
    low, high = np.percentile(means[draws].mean(1), [2.5, 97.5])
    return Interval(float(means.mean()), float(low), float(high))
