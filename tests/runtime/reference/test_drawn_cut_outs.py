"""Holes, thin parts and soft edges of drawn pictures with known masks, by every way to cut a subject out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_synthesis import write_tiny_salient

from dreamcache.runtime.reference.salient import open_salient
from dreamcache.runtime.reference.segmentation import grabcut, plain_background

SIDE = 160
Y, X = (np.mgrid[:SIDE, :SIDE] + 0.5 - SIDE / 2) / SIDE
RADIUS = np.hypot(Y, X)
Alpha = NDArray[np.float64]


def edge(distance: Alpha, width: float = 0.01) -> Alpha:
    """1 inside, 0 outside, a ramp of `width` (of the side) between."""
    return np.clip(0.5 - distance / width, 0, 1)


SHAPES: dict[str, Alpha] = {
    "ring": edge(np.abs(RADIUS - 0.25) - 0.09),
    "cross": np.maximum(
        edge(np.maximum(np.abs(X) - 0.36, np.abs(Y) - 0.03)),
        edge(np.maximum(np.abs(Y) - 0.36, np.abs(X) - 0.03)),
    ),
    "soft disc": edge(RADIUS - 0.27, 0.08),
}


def drawn(alpha: Alpha, noise: float) -> Image.Image:
    """The shape in red on a green background of so much noise (0-255)."""
    spread = np.random.default_rng(0).uniform(-noise, noise, (SIDE, SIDE, 3))
    background = np.array([40.0, 150.0, 70.0]) + spread
    pixels = alpha[..., None] * np.array([220.0, 40.0, 40.0]) + (1 - alpha[..., None]) * background
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def overlap(mask: Image.Image, alpha: Alpha) -> float:
    """Intersection over union."""
    inside, truth = np.asarray(mask) > 127, alpha > 0.5
    return float((inside & truth).sum() / (inside | truth).sum())


def by_plain_background(picture: Image.Image) -> Image.Image:
    found = plain_background(picture)
    assert found is not None
    return found.foreground


def by_grabcut(picture: Image.Image) -> Image.Image:
    found = grabcut(picture)
    assert found is not None
    return found.foreground


@pytest.fixture(scope="module")
def by_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Image.Image], Image.Image]:
    """A salient-object model of 160 px whose blur is five pixels wide."""
    model = open_salient(write_tiny_salient(tmp_path_factory.mktemp("m") / "u2net.onnx", 8.0, SIDE))

    def cut(picture: Image.Image) -> Image.Image:
        found = model.find_subject(picture)
        assert found is not None
        return found

    return cut


def test_holes_stay_open(by_model: Callable[[Image.Image], Image.Image]) -> None:
    ring = SHAPES["ring"]
    filled = Image.fromarray(np.where(RADIUS < 0.34, 255, 0).astype(np.uint8))
    assert overlap(filled, ring) < 0.85, "what must fail: the ring without its hole"
    assert overlap(by_plain_background(drawn(ring, 2)), ring) > 0.92
    assert overlap(by_grabcut(drawn(ring, 40)), ring) > 0.92
    assert overlap(by_model(drawn(ring, 40)), ring) > 0.92


def test_thin_parts_stay(by_model: Callable[[Image.Image], Image.Image]) -> None:
    cross = SHAPES["cross"]
    middle = Image.fromarray(np.where(RADIUS < 0.12, 255, 0).astype(np.uint8))
    assert overlap(middle, cross) < 0.5, "what must fail: the middle without the arms"
    assert overlap(by_plain_background(drawn(cross, 2)), cross) > 0.95
    assert overlap(by_model(drawn(cross, 40)), cross) > 0.72


def test_soft_edges_are_soft_from_a_model_alone(by_model: Callable[[Image.Image], Image.Image]) -> None:
    disc = SHAPES["soft disc"]
    ramp = (disc > 0) & (disc < 1)

    def error(mask: Image.Image) -> float:
        return float(np.abs(np.asarray(mask) / 255 - disc)[ramp].mean())

    plain, model = by_plain_background(drawn(disc, 2)), by_model(drawn(disc, 40))
    assert min(overlap(plain, disc), overlap(by_grabcut(drawn(disc, 40)), disc), overlap(model, disc)) > 0.74
    assert error(model) < 0.3 < 0.38 < error(plain)
