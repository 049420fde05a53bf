"""Sharpness and the Fréchet distance: a blurred picture fails both, a render passes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.toys.attribute_classifier import load_classifier
from dreamcache.training.evaluation.toys.benchmark import draw_cases
from dreamcache.training.evaluation.toys.picture_quality import (
    Renders,
    frechet_distance,
    mean_sharpness,
    measure_quality,
    render_toys,
)
from dreamcache.training.world.render import render


@pytest.fixture(scope="module")
def renders() -> Renders:
    cases = draw_cases(80, 1)
    return render_toys([case.toy for case in cases], [case.scene for case in cases], 128)


def blurred(pictures: np.ndarray, radius: float) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.fromarray(one).filter(ImageFilter.GaussianBlur(radius))) for one in pictures]
    )


def test_other_renders_pass_and_blurred_ones_fail(renders: Renders) -> None:
    judge = load_classifier()
    cases = draw_cases(80, 1, size=128)
    others = np.stack(
        [render(c.toy, c.scene, np.random.default_rng([5, i]), size=128).image for i, c in enumerate(cases)]
    )
    good = measure_quality(judge, others, renders)
    assert good.sharpness == pytest.approx(1, abs=0.15)
    assert good.toy_sharpness == pytest.approx(1, abs=0.25)
    bad = measure_quality(judge, blurred(others, 2.4), renders)
    assert bad.sharpness < 0.3
    assert bad.toy_sharpness < 0.4
    # of so few pictures even good ones are some way off
    assert bad.frechet_distance > 1.2 * good.frechet_distance > 0


def test_a_blurred_toy_in_a_sharp_scene_shows_in_the_toy_alone(renders: Renders) -> None:
    smeared = np.where(renders.masks[..., None] > 0.5, blurred(renders.pictures, 2), renders.pictures)
    toy = mean_sharpness(smeared, renders.masks) / mean_sharpness(renders.pictures, renders.masks)
    assert toy < 0.4
    assert mean_sharpness(smeared) / mean_sharpness(renders.pictures) > 2 * toy


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    checked = np.zeros((1, 6, 6, 3), np.uint8)
    checked[0, ::2, ::2] = checked[0, 1::2, 1::2] = 255
    # four neighbours of the other colour: ±4 × 255 by turns
    assert mean_sharpness(checked) == pytest.approx((4 * 255) ** 2)
    assert mean_sharpness(np.full((1, 6, 6, 3), 77, np.uint8)) == pytest.approx(0, abs=1e-9)
    assert mean_sharpness(checked, np.zeros((1, 6, 6), np.float32)) == 0


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((4000, 3)).astype(np.float32)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    # (mean apart)² + d (σ − 1)²
    other = 2 * rng.standard_normal((4000, 3)).astype(np.float32) + np.asarray([3, 0, 0], np.float32)
    assert frechet_distance(one, other) == pytest.approx(9 + 3, rel=0.05)


def test_a_judge_of_another_size_is_refused() -> None:
    judge = load_classifier()
    assert judge.of_size(128) is judge
    with pytest.raises(BenchmarkError, match=r"128 × 128 pixels and the base draws 64 × 64.*--judge"):
        judge.of_size(64)
