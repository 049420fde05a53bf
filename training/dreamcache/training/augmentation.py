"""What happens to a reference in training (paper, supplement): flip, colour jitter, erasing to white."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

FLIP = 0.5
JITTER = 0.1
JITTER_RANGE = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}
ERASE = 0.4
ERASE_AREA = (0.02, 0.25)


@dataclass(frozen=True)
class Chances:
    """How often each happens; the paper's by default."""

    flip: float = FLIP
    jitter: float = JITTER
    erase: float = ERASE


PAPER = Chances()


def augment_reference(
    picture: NDArray[np.uint8], rng: np.random.Generator, chances: Chances = PAPER
) -> NDArray[np.uint8]:
    """A reference uint8 [h, w, 3] on white as training sees it; the same shape."""
    if rng.random() < chances.flip:
        picture = picture[:, ::-1]
    if rng.random() < chances.jitter:
        picture = _jitter(picture, rng)
    if rng.random() < chances.erase:
        picture = _erase(picture, rng)
    return np.ascontiguousarray(picture)


def _jitter(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(picture))
    for name, enhancer in (
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ):
        image = enhancer(image).enhance(1 + rng.uniform(-1, 1) * JITTER_RANGE[name])
    hsv = np.asarray(image.convert("HSV")).copy()
    shift = round(rng.uniform(-1, 1) * JITTER_RANGE["hue"] * 255)
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + shift) % 256
    jittered = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
    # the background stays white: the subject alone changes its colours
    return np.where((picture == 255).all(-1, keepdims=True), picture, jittered)


def _erase(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    area = rng.uniform(*ERASE_AREA) * height * width
    aspect = np.exp(rng.uniform(np.log(0.3), np.log(3.3)))
    h, w = min(height, round(np.sqrt(area * aspect))), min(width, round(np.sqrt(area / aspect)))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    erased = picture.copy()
    erased[top : top + h, left : left + w] = 255
    return erased
