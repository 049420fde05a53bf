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

from dreamcache.runtime.reference.doubts import MOST_OF_EDGE, Mask, doubt_of, edge_share, surrounded

# Reference pictures end at 64 to 512 px, so a finer mask would be thrown away.
_FLOOD_SIDE_PX = 512
_GRABCUT_SIDE_PX = 320

# A background is plain when this share of the border is this near (0-255, each channel) to its median.
_PLAIN_SHARE = 0.9
_PLAIN_DISTANCE = 16
_WHITE = 250

_GRABCUT_ROUNDS = 5
_GRABCUT_SEED = 0
# Squared radius of the ellipse where the subject is sought first; 1 touches the borders.
_GRABCUT_ELLIPSE = 0.8
# A subject that takes more of the edge is sought again without the edge, which it keeps when it is large enough.
_GRABCUT_BAND, _GRABCUT_LEAST_INSIDE = 0.96, 0.2
_GRABCUT_MIN_SIDE_PX = 16
# Less is noise, more means that nothing was told apart.
_CREDIBLE_SHARE = (0.02, 0.95)


@dataclass(frozen=True)
class PlainBackground:
    """foreground: mode "L", 255 on the subject. colour: the background's, 0-255. doubt: why it may be wrong.

    seen_through: the background's colour was taken away inside the subject too.
    """

    foreground: Image.Image
    colour: tuple[int, int, int]
    doubt: str = ""
    seen_through: bool = False

    @property
    def is_white(self) -> bool:
        return min(self.colour) >= _WHITE


def plain_background(rgb: Image.Image) -> PlainBackground | None:
    """What a flood from the borders does not reach, or None when the border is not of one colour.

    The foreground is empty when the whole picture is of one colour.
    """
    pixels = np.asarray(_reduced(rgb, _FLOOD_SIDE_PX)).astype(np.int16)
    border = np.ones(pixels.shape[:2], dtype=bool)
    border[1:-1, 1:-1] = False
    colour = np.median(pixels[border], axis=0)
    distance = np.abs(pixels - colour).max(axis=-1)
    near = distance <= _PLAIN_DISTANCE
    if near[border].mean() < _PLAIN_SHARE:
        return None
    foreground = _without_specks(~connected(border, near))
    # What the background itself varies by, under the tolerance for shadows and compression.
    noise = float(np.quantile(distance[border & near], 0.99))
    same = distance <= min(max(1.5 * noise, 2), _PLAIN_DISTANCE)
    whole = _without_specks(~connected(border, same))
    pale = _is_pale_body(foreground, whole, distance, border)
    foreground = whole if pale else foreground
    red, green, blue = (round(float(channel)) for channel in colour)
    holes = np.zeros_like(foreground)
    if min(red, green, blue) < _WHITE:  # on white the picture stays as it is
        holes = _seen_through(foreground, same, near)
    foreground = foreground & ~holes
    doubt = "the subject is nearly of the background's colour" if pale else doubt_of(foreground | holes)
    return PlainBackground(_full_size(foreground, rgb), (red, green, blue), doubt, bool(holes.any()))


def _is_pale_body(foreground: Mask, whole: Mask, distance: NDArray[np.floating], border: Mask) -> bool:
    """Whether the flood ran over a faint edge into a subject of nearly its colour, of which `whole` holds more.

    A background that gets darker towards the middle, or a shadow, has no such edge.
    """
    lost = whole & ~foreground
    much = np.count_nonzero(lost & surrounded(foreground)) > 0.1 * np.count_nonzero(foreground)
    if not much and np.count_nonzero(whole) <= 2.5 * np.count_nonzero(foreground):
        return False
    levels = Image.fromarray(np.clip(distance, 0, 255).astype(np.uint8))
    spread = np.asarray(levels.filter(ImageFilter.MaxFilter(5))).astype(int) - np.asarray(
        levels.filter(ImageFilter.MinFilter(5))
    )
    rim = lost & (np.asarray(_as_image(whole).filter(ImageFilter.MinFilter(3))) == 0)
    return bool(rim.any()) and bool(np.median(spread[rim]) >= max(3, 2 * np.median(spread[border])))


def _seen_through(foreground: Mask, same: Mask, near: Mask) -> Mask:
    """Where a coloured background shows inside the subject: a ring's hole, not a speck of that colour."""
    cores = np.asarray(_as_image(foreground & same).filter(ImageFilter.MinFilter(5))) > 0
    return connected(cores, foreground & near)


def has_grabcut() -> bool:
    """Whether OpenCV (the extra `segment`) is installed."""
    return find_spec("cv2") is not None


@dataclass(frozen=True)
class GrabCutSubject:
    """foreground: mode "L", 255 on the subject. doubt: why it may be wrong; empty for one that may well be right."""

    foreground: Image.Image
    doubt: str


def grabcut(rgb: Image.Image) -> GrabCutSubject | None:
    """The subject of a photograph, or None when GrabCut tells nothing apart.

    It starts from an ellipse and may move every pixel: a subject that reaches the border keeps its parts
    there. One that takes much of the border may be the sky, and is sought once more without. Same picture, same mask.
    """
    pixels = np.ascontiguousarray(np.asarray(_reduced(rgb, _GRABCUT_SIDE_PX))[..., ::-1])
    height, width = pixels.shape[:2]
    if min(height, width) < _GRABCUT_MIN_SIDE_PX:
        return None
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    inside = x**2 + y**2 < _GRABCUT_ELLIPSE
    foreground = _cut(pixels, inside, np.zeros_like(inside))
    if foreground is None:
        return None
    doubt = doubt_of(foreground)
    if edge_share(foreground) > MOST_OF_EDGE or not _is_credible(foreground):
        again = _cut(pixels, inside, (np.abs(x) > _GRABCUT_BAND) | (np.abs(y) > _GRABCUT_BAND))
        if again is not None and _is_credible(again) and again.mean() >= _GRABCUT_LEAST_INSIDE:
            foreground = again
    return GrabCutSubject(_full_size(foreground, rgb), doubt) if _is_credible(foreground) else None


def _is_credible(foreground: Mask) -> bool:
    return bool(_CREDIBLE_SHARE[0] <= foreground.mean() <= _CREDIBLE_SHARE[1])


def _cut(pixels: NDArray[np.uint8], inside: Mask, outside: Mask) -> Mask | None:
    """One GrabCut from where the subject probably is and where it surely is not; None when it gives up."""
    import cv2

    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[outside] = cv2.GC_BGD
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(_GRABCUT_SEED)  # its colour clusters start at random
    try:
        cv2.grabCut(pixels, labels, None, models[0], models[1], _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:
        return None
    return _largest_parts(cv2.medianBlur((labels & 1) * np.uint8(255), 5) > 0)


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
