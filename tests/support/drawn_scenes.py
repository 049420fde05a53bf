"""A drawn subject in front of noise, with its true mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

TRUTH = np.zeros((64, 96), bool)
"""Of `scene`'s square."""
TRUTH[10:40, 18:48] = True


def scene(subject: str | None = "red") -> Image.Image:
    """A square of one colour on green and blue noise, 96 × 64 px."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    pixels[..., 0] = 0
    picture = Image.fromarray(pixels)
    if subject is not None:
        picture.paste(subject, (18, 10, 48, 40))
    return picture
