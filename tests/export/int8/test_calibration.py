"""The interval that 8 bits stand for: the best one, found without trying them all."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dreamcache.export.int8.calibration import SAMPLES_A_RUN, Observer, Range, best_range, squared_error


def drawn(kind: str) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    values = {
        "uniform": lambda: random.uniform(-1, 1, 20_000),
        "normal": lambda: random.standard_normal(20_000),
        "outlier": lambda: np.append(random.standard_normal(20_000), 60.0),
        "one-sided": lambda: np.abs(random.standard_normal(20_000)) ** 3,
    }[kind]()
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["uniform", "normal", "outlier", "one-sided"])
def test_near_the_best_of_a_grid(kind: str) -> None:
    values = drawn(kind)
    low, high = min(float(values.min()), 0.0), float(values.max())
    shares = np.linspace(0.05, 1.0, 39)
    lows = shares if low < 0 else (1.0,)
    grid = min(squared_error(values, Range(low * a, high * b)) for a in lows for b in shares)
    found = best_range(values)
    assert found.low <= 0.0 <= found.high
    # The two ends are sought one after the other.
    reached = squared_error(values, found)
    assert reached <= 1.1 * grid
    assert reached <= squared_error(values, Range(low, high))
    assert squared_error(values, Range(low * 0.05, high * 0.05)) > 10 * grid


def test_one_outlier_does_not_cost_everybody_a_bit() -> None:
    values = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    values[0] = 12.0
    found = best_range(values)
    assert 5.0 < found.high < 11.0
    whole = squared_error(values, Range(float(values.min()), 12.0))
    assert squared_error(values, found) < 0.9 * whole
    assert squared_error(values, Range(float(values.min()), 2.5)) > 2 * whole


def test_a_uniform_tensor_keeps_all_of_its_range() -> None:
    found = best_range(drawn("uniform"))
    assert found.low == pytest.approx(-1.0, abs=0.03)
    assert found.high == pytest.approx(1.0, abs=0.03)
    # The known error of rounding, a twelfth of the squared step.
    assert squared_error(drawn("uniform"), found) == pytest.approx((2 / 255) ** 2 / 12, rel=0.1)
    assert squared_error(drawn("uniform"), Range(-0.5, 0.5)) > 100 * (2 / 255) ** 2 / 12


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_constant_is_met(value: float) -> None:
    found = best_range(np.full(10, value, np.float32))
    assert squared_error(np.full(10, value, np.float32), found) < 1e-3
    assert found.high > found.low


def test_an_observer_keeps_the_extremes_of_every_run() -> None:
    random, observer = np.random.default_rng(0), Observer()
    for run in range(3):
        tensor = random.uniform(-1, 1, (4, 50_000)).astype(np.float32)
        tensor[0, run] = 2.0
        observer.see({"wide": tensor, "narrow": tensor[:, :10] * 0.1})
    ranges = observer.ranges()
    assert ranges["wide"].high > 0.9
    assert ranges["narrow"].high < 0.21
    assert [len(values) for values in observer._values["wide"]] == [SAMPLES_A_RUN + 2] * 3
    observer.see({"wide": np.array([np.nan], np.float32)})
    with pytest.raises(ValueError, match="wide took NaN"):
        observer.ranges()
