"""References in styles that training never saw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps


def _pixelated(picture: Image.Image) -> Image.Image:
    small = picture.resize((16, 16), Image.Resampling.BOX)
    return small.resize(picture.size, Image.Resampling.NEAREST)


def _inked(picture: Image.Image) -> Image.Image:
    lines = picture.convert("L").filter(ImageFilter.CONTOUR).point(lambda value: 255 if value > 200 else 40)
    return ImageChops.multiply(picture, lines.convert("RGB"))


STYLES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "posterised": lambda picture: ImageOps.posterize(picture, 2),
    "pixelated": _pixelated,
    "oil paint": lambda picture: picture.filter(ImageFilter.ModeFilter(7)),
    "inked": _inked,
}


def restyle(pictures: NDArray[np.uint8], style: str) -> NDArray[np.uint8]:
    """Pictures uint8 [n, h, w, 3] in a style; "" leaves them. Raises: KeyError for a style that is unknown."""
    if not style:
        return pictures
    return np.stack([np.asarray(STYLES[style](Image.fromarray(picture))) for picture in pictures])
