"""Styles: what a whole picture may be drawn as, and how a caption says so.

Each changes lines and surfaces and keeps colours, so that a toy stays recognisable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter, ImageOps

PIXEL_ART_CELL = 4


def _pixelated(picture: Image.Image) -> Image.Image:
    small = picture.resize(
        (picture.width // PIXEL_ART_CELL, picture.height // PIXEL_ART_CELL), Image.Resampling.BOX
    )
    return small.resize(picture.size, Image.Resampling.NEAREST)


def _inked(picture: Image.Image) -> Image.Image:
    lines = picture.convert("L").filter(ImageFilter.CONTOUR).point(lambda value: 255 if value > 200 else 40)
    return ImageChops.multiply(picture, lines.convert("RGB"))


@dataclass(frozen=True)
class Style:
    """`words` as captions say it; `draw` makes a picture of the style from a plain one."""

    words: str
    draw: Callable[[Image.Image], Image.Image]


PLAIN = "as drawn"
STYLES: dict[str, Style] = {
    "posterised": Style("as a poster", lambda picture: ImageOps.posterize(picture, 2)),
    "pixelated": Style("in pixel art", _pixelated),
    "oil paint": Style("as an oil painting", lambda picture: picture.filter(ImageFilter.ModeFilter(7))),
    "inked": Style("as an ink drawing", _inked),
}
STYLE_NAMES = (PLAIN, *STYLES)


def restyle(pictures: NDArray[np.uint8], style: str) -> NDArray[np.uint8]:
    """Pictures uint8 [n, h, w, 3] in a style; PLAIN leaves them.

    Raises: KeyError for a style that the world does not have.
    """
    if style == PLAIN:
        return pictures
    return np.stack([np.asarray(STYLES[style].draw(Image.fromarray(picture))) for picture in pictures])
