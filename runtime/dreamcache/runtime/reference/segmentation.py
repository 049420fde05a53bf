"""Which pixels are the subject, when no mask says so: a plain background, or OpenCV's GrabCut.

GrabCut: Rother, Kolmogorov and Blake 2004, "GrabCut: interactive foreground extraction using iterated
graph cuts". Both work on a reduced copy; masks come back at the picture's size with soft edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Reference pictures end at 64 to 512 px, so a finer mask would be thrown away.
_FLOOD_SIDE_PX = 512
_GRABCUT_SIDE_PX = 320

# A background is plain when this share of the border is this near (0-255, each channel) to its median.
_PLAIN_SHARE = 0.9
_PLAIN_DISTANCE = 16

_GRABCUT_ROUNDS = 5
_GRABCUT_SEED = 0
# Squared radius of the ellipse where the subject is sought first; 1 touches the borders.
_GRABCUT_ELLIPSE = 0.8
_GRABCUT_MIN_SIDE_PX = 16
# Less is noise, more means that nothing was told apart.
_CREDIBLE_SHARE = (0.02, 0.95)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PlainBackground:
    """foreground: mode "L", 255 on the subject. colour: the background's, 0-255."""

    foreground: Image.Image
    colour: tuple[int, int, int]

    @property
    def is_white(self) -> bool:
        return min(self.colour) >= 250


def plain_background(rgb: Image.Image) -> PlainBackground | None:
    """What a flood from the borders does not reach, or None when the border is not of one colour.

    The foreground is empty when the whole picture is of one colour.
    """
    pixels = np.asarray(_reduced(rgb, _FLOOD_SIDE_PX)).astype(np.int16)
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[1:-1, 1:-1] = False
    colour = np.median(pixels[border], axis=0)
    near = np.abs(pixels - colour).max(axis=-1) <= _PLAIN_DISTANCE
    if near[border].mean() < _PLAIN_SHARE:
        return None
    foreground = _without_specks(~connected(border, near))
    red, green, blue = (round(float(channel)) for channel in colour)
    return PlainBackground(_full_size(foreground, rgb), (red, green, blue))


def has_grabcut() -> bool:
    """Whether OpenCV (the extra `segment`) is installed."""
    return find_spec("cv2") is not None


def grabcut(rgb: Image.Image) -> Image.Image | None:
    """The subject of a photograph, mode "L", or None when GrabCut tells nothing apart.

    It starts from an ellipse and may move every pixel: a subject that reaches the border keeps its parts
    there. Same picture, same mask.
    """
    import cv2

    pixels = np.ascontiguousarray(np.asarray(_reduced(rgb, _GRABCUT_SIDE_PX))[..., ::-1])
    height, width = pixels.shape[:2]
    if min(height, width) < _GRABCUT_MIN_SIDE_PX:
        return None
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    inside = x**2 + y**2 < _GRABCUT_ELLIPSE
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(_GRABCUT_SEED)  # its colour clusters start at random
    try:
        cv2.grabCut(pixels, labels, None, models[0], models[1], _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    foreground = _largest_parts(cv2.medianBlur((labels & 1) * np.uint8(255), 5) > 0)
    if not _CREDIBLE_SHARE[0] <= foreground.mean() <= _CREDIBLE_SHARE[1]:
        return None
    return _full_size(foreground, rgb)


def connected(seeds: Mask, allowed: Mask) -> Mask:
    """The allowed pixels that a path of allowed pixels, side by side, joins to a seed: [h, w]."""
    reached = seeds & allowed
    while True:
        grown = _filled_runs(_filled_runs(reached, allowed).T, allowed.T).T
        if np.count_nonzero(grown) == np.count_nonzero(reached):
            return reached
        reached = grown


def _filled_runs(reached: Mask, allowed: Mask) -> Mask:
    """Every horizontal run of allowed pixels of which one is reached."""
    starts = allowed.copy()
    starts[:, 1:] &= ~allowed[:, :-1]
    run = np.cumsum(starts).reshape(allowed.shape)
    hit = np.zeros(int(run[-1, -1]) + 1, dtype=bool)
    hit[run[reached]] = True
    return np.asarray(allowed & hit[run])


def _without_specks(foreground: Mask) -> Mask:
    """Only parts that are somewhere at least three pixels thick; unchanged when there are none."""
    cores = np.asarray(_as_image(foreground).filter(ImageFilter.MinFilter(3))) > 0
    return connected(cores, foreground) if cores.any() else foreground


def _largest_parts(foreground: Mask) -> Mask:
    """The parts that have at least a tenth of the largest one's area."""
    import cv2

    _, parts, figures, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8))
    areas = figures[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # the background
    return np.asarray((areas * 10 >= max(int(areas.max()), 1))[parts])


def _reduced(rgb: Image.Image, side: int) -> Image.Image:
    copy = rgb.copy()
    # Averages keep a flat background flat; sharper filters ring at edges.
    copy.thumbnail((side, side), Image.Resampling.BOX)
    return copy


def _full_size(foreground: Mask, rgb: Image.Image) -> Image.Image:
    return _as_image(foreground).resize(rgb.size, Image.Resampling.BILINEAR)


def _as_image(mask: Mask) -> Image.Image:
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))
