"""The halves of a picture of two toys, at the size of a picture of one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HALF = (20 / 64, 52 / 64)
"""Rows of the square that is cut out of each half, where the world puts the smaller toys; shares of the picture."""


def halves(pictures: NDArray[np.uint8], shift: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """Both halves of pictures uint8 [n, h, w, 3], or masks [n, h, w], each enlarged: [n, 2, h, w, …].

    shift: pixels to the right and downwards by which the cut is moved.
    """
    size = pictures.shape[1]
    top, bottom = (round(share * size) for share in HALF)
    side = bottom - top

    def cut(picture: NDArray[np.uint8], start: int) -> NDArray[np.uint8]:
        x, y = (min(max(at, 0), size - side) for at in (start + shift[0], top + shift[1]))
        part = Image.fromarray(picture[y : y + side, x : x + side])
        return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC))

    return np.stack([[cut(picture, start) for start in (0, size // 2)] for picture in pictures])
