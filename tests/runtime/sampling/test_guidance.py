"""Guidance is the arithmetic of docs/concepts/bundle.md, "Guidance"."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.guidance import MODES, Branch, Guidance


@pytest.fixture
def predictions() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal((2, 4, 3, 3)).astype(np.float32) for _ in range(3)]


def test_dual_needs_three_predictions_and_combines_them(predictions: list[np.ndarray]) -> None:
    guidance = Guidance("dual", 7.5, 0.4, 0.8)
    assert guidance.branches(True) == (Branch("null", 0.0), Branch("null", 0.8), Branch("prompt", 0.8))
    stock, null, text = (array.astype(np.float64) for array in predictions)
    expected = stock + 7.5 * (text - null) + 0.4 * (null - stock)
    np.testing.assert_allclose(guidance.combine(predictions), expected, rtol=1e-5, atol=1e-5)
    swapped = Guidance("dual", 0.4, 7.5, 0.8).combine(predictions)
    assert np.abs(swapped - expected).max() > 0.1


def test_text_first_asks_for_the_reference_where_the_text_is_known(predictions: list[np.ndarray]) -> None:
    guidance = Guidance("text_first", 3.0, 8.0, 0.8)
    assert guidance.branches(True) == (Branch("null", 0.0), Branch("prompt", 0.0), Branch("prompt", 0.8))
    stock, text, both = (array.astype(np.float64) for array in predictions)
    expected = stock + 3 * (text - stock) + 8 * (both - text)
    np.testing.assert_allclose(guidance.combine(predictions), expected, rtol=1e-5, atol=1e-5)
    dual = Guidance("dual", 3.0, 8.0, 0.8).combine(predictions)
    assert np.abs(dual - expected).max() > 0.1


def test_classic_keeps_the_reference_on(predictions: list[np.ndarray]) -> None:
    guidance = Guidance("classic", 3.0, 0.4, 1.0)
    assert guidance.branches(True) == (Branch("null", 1.0), Branch("prompt", 1.0))
    null, text = predictions[:2]
    np.testing.assert_allclose(guidance.combine([null, text]), null + 3 * (text - null), rtol=1e-5, atol=1e-5)


def test_none_is_the_prediction_itself(predictions: list[np.ndarray]) -> None:
    guidance = Guidance("none", 7.5, 0.4, 1.0)
    assert guidance.branches(True) == (Branch("prompt", 1.0),)
    assert guidance.combine(predictions[:1]) is predictions[0]


def test_without_a_reference_nothing_is_conditioned() -> None:
    for mode in MODES:
        branches = Guidance(mode, 7.5, 0.4, 1.0).branches(False)
        assert len(branches) == (1 if mode == "none" else 2)
        assert all(branch.strength == 0 for branch in branches)


def test_dual_and_classic_agree_where_the_reference_scale_is_one(predictions: list[np.ndarray]) -> None:
    dual = Guidance("dual", 5.0, 1.0, 1.0).combine(predictions)
    classic = Guidance("classic", 5.0, 1.0, 1.0).combine(predictions[1:])
    np.testing.assert_allclose(dual, classic, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (("triple", 1.0, 1.0, 1.0), "guidance mode"),
        (("dual", -1.0, 1.0, 1.0), "guidance_scale"),
        (("dual", float("nan"), 1.0, 1.0), "guidance_scale"),
        (("dual", 1.0, float("inf"), 1.0), "reference_guidance_scale"),
        (("dual", 1.0, 1.0, -0.5), "strength"),
    ],
)
def test_bad_settings_are_named(values: tuple[Any, ...], name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Guidance(*values)
