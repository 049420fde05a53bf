"""What is said of samples, against figures worked out by hand."""

from __future__ import annotations

import pytest

from dreamcache.benchmarks.protocol.case import BLOCK, FULL, QUICK
from dreamcache.benchmarks.protocol.samples import (
    alternate,
    is_warm,
    median,
    p90,
    spread_of,
    sustained_speeds,
)


def test_percentiles_of_known_samples() -> None:
    samples = [float(value) for value in range(64, 0, -1)]
    assert median(samples) == pytest.approx(32.5)
    assert p90(samples) == pytest.approx(57.7)
    assert p90(samples[1:]) is None, "63 samples carry no 90th percentile"
    assert median([]) is None


@pytest.mark.parametrize(
    ("samples", "iqr", "unstable"),
    [
        ([90, 95, 100, 105, 110], 10.0, False),
        ([89, 94, 100, 105, 110], 11.0, True),
        ([1, 100, 100, 100, 100, 100, 900], 0.0, False),
        ([50, 100, 150], 50.0, None),
    ],
)
def test_the_quartiles_decide_what_is_unstable(
    samples: list[float], iqr: float, unstable: bool | None
) -> None:
    spread = spread_of(samples)
    assert spread.median == 100
    assert spread.iqr == pytest.approx(iqr)
    assert spread.unstable is unstable


@pytest.mark.parametrize(
    ("medians", "warm"),
    [
        ([10.0, 10.4, 10.2], True),
        ([10.0, 10.6, 10.2], False),
        ([30.0, 10.0, 10.1, 10.5], True),
        ([10.0, 10.0, 30.0], False),
        ([10.0, 10.0], False),
    ],
)
def test_warm_is_when_the_last_three_blocks_agree_within_five_per_cent(
    medians: list[float], warm: bool
) -> None:
    # One call in each block is an outlier, which its median does not see.
    assert is_warm([[value, value, 99.0] for value in medians]) is warm


def test_cases_alternate_so_that_a_drift_falls_on_both() -> None:
    order = list(alternate(["A", "B"], 4))
    assert order == ["A", "B", "B", "A", "A", "B", "B", "A"]
    drift = {case: sum(at for at, name in enumerate(order) if name == case) for case in "AB"}
    assert drift["A"] == drift["B"]
    one_after_the_other = ["A"] * 4 + ["B"] * 4
    assert sum(at for at, name in enumerate(one_after_the_other) if name == "A") < drift["A"]


def test_sustained_speed_compares_the_last_window_with_the_first() -> None:
    ends = [1.0 * call for call in range(1, 11)] + [10.0 + 2.0 * call for call in range(1, 6)]
    assert sustained_speeds(ends, 5.0) == pytest.approx((1.0, 0.5))
    # Calls of 0.8 s: one whole and a quarter of the next in either second.
    assert sustained_speeds([0.8, 1.6, 2.4], 1.0) == pytest.approx((1.25, 1.25))
    with pytest.raises(ValueError, match="two windows"):
        sustained_speeds([1.0], 0.6)


def test_the_protocol_asks_for_enough() -> None:
    assert FULL.steps >= 64
    assert FULL.pictures >= 5
    assert QUICK.pictures >= 5
    assert QUICK.steps < 64, "a quick run has no 90th percentile"
    assert FULL.steps % BLOCK == QUICK.steps % BLOCK == 0
