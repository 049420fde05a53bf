"""The reference as the method wants it: the subject alone, on white, filling most of a square frame.

The paper, "Caching" (background removed) and "Training" (re-cropped and re-scaled to fill at least 0.7
of the frame).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.doubts import agreement, doubt_of_segmenter, removes_nothing, with_doubt
from dreamcache.runtime.reference.images import LoadedImage, load_image, load_mask
from dreamcache.runtime.reference.picture_sources import Source
from dreamcache.runtime.reference.segmentation import grabcut, has_grabcut, plain_background

MIN_FILL = 0.7
# The longer side of the subject over the frame's: above MIN_FILL with room for a soft edge.
_FILL = 0.8
_INSIDE = 128
_MIN_SUBJECT_PX = 4
# IoU: all of 24 drawn scenes lie above (0.79 to 0.99), most photographs cut by the miniature's segmenter below (0.33 to
# 0.8).
_LEAST_AGREEMENT = 0.7

OWN_SEGMENTER = "the bundle's segmenter"


@dataclass(frozen=True)
class PreparedReference:
    """image: "RGB", size x size, on white. mask: [size, size], 0-1, the subject. how: what was done."""

    image: Image.Image
    mask: NDArray[np.float32]
    how: str

    @property
    def fill(self) -> float:
        """The longer side of the subject over the frame's, 0-1."""
        # Half of the maximum, not of one: a thin subject covers no pixel wholly.
        rows, columns = np.nonzero(self.mask >= self.mask.max() / 2)
        return float(max(np.ptp(rows), np.ptp(columns)) + 1) / self.image.width


Segment = Callable[[Image.Image], Image.Image | None]
"""A picture "RGB" to its subject's mask "L" of the same size; None where it finds none."""


def prepare_reference(
    image: Source | LoadedImage,
    mask: Source | None = None,
    *,
    size: int,
    max_pixels: int | None = None,
    segment: Segment | None = None,
    segmenter: str = OWN_SEGMENTER,
) -> PreparedReference:
    """Take the background away and frame the subject.

    The subject is found by the first of: the given mask (white on the subject), the picture's
    transparency, a background of one colour, the segmenter, GrabCut (extra `segment`). Results are judged:
    transparency that removes nothing is passed over, and a doubtful cut is said to be one. Without any, the whole
    picture is the reference, and `how` says so. size: side of the result in pixels. max_pixels: see `load_image`.
    segment: the bundle's segmenter, where it has one, or another. segmenter: what `how` calls it. The bundle's own may
    never have seen such a picture, so GrabCut is asked too, and where the two disagree the cut is doubtful.
    Raises: ImageError for a picture or mask that cannot be read, a mask of another size than the picture,
    or one that is empty or all subject, and for a picture without any subject.
    """
    loaded = image if isinstance(image, LoadedImage) else load_image(image, max_pixels)
    subject, how = _find_subject(
        loaded, None if mask is None else load_mask(mask, max_pixels), segment, segmenter
    )
    if subject is None:
        everything = Image.new("L", loaded.rgb.size, 255)
        return _framed(loaded.rgb, everything, size, fill=1.0, how=how)
    on_white = loaded.rgb
    if subject is not loaded.alpha:  # which is composited already
        on_white = Image.composite(loaded.rgb, Image.new("RGB", loaded.rgb.size, "white"), subject)
    return _framed(on_white, subject, size, fill=_FILL, how=how)


def _find_subject(
    image: LoadedImage, mask: Image.Image | None, segment: Segment | None, segmenter: str
) -> tuple[Image.Image | None, str]:
    """The subject's mask (None: the whole picture) and the sentence that says where it is from."""
    if mask is not None:
        return _checked_mask(mask, image), "background removed with the given mask"
    if image.alpha is None:
        return _find_by_colour(image, segment, segmenter)
    if removes_nothing(image.alpha):
        subject, how = _find_by_colour(image, segment, segmenter)
        return subject, f"the picture's transparency removes nothing; {how}"
    _check_subject(image.alpha, f"{image.name}: its transparency")
    return image.alpha, "background removed by the picture's transparency"


def _find_by_colour(
    image: LoadedImage, segment: Segment | None, segmenter: str
) -> tuple[Image.Image | None, str]:
    """The same for a picture that is opaque: a plain background, else the segmenter, else GrabCut."""
    plain = plain_background(image.rgb)
    if plain is not None:
        _check_subject(plain.foreground, f"{image.name}: what differs from its plain background")
        colour = "#{:02x}{:02x}{:02x}".format(*plain.colour)
        inside = ", inside the subject too" if plain.seen_through else ""
        how = f"plain background {colour} removed{inside}"
        if plain.is_white:
            how = "already on plain white; only the frame was changed"
        return plain.foreground, with_doubt(how, plain.doubt)
    if segment is not None and (mask := segment(image.rgb)) is not None:
        doubt = doubt_of_segmenter(np.asarray(mask) >= _INSIDE)
        if segmenter == OWN_SEGMENTER and has_grabcut():
            return _compared(image.rgb, mask, doubt, segmenter)
        return mask, _checked_by_eye(f"background removed by {segmenter}", doubt)
    tried = "" if segment is None else f"no subject found by {segmenter}; "
    if not has_grabcut():
        return None, (
            f"{tried}background kept: give a mask, or install GrabCut with: pip install 'dreamcache[segment]'"
        )
    found = grabcut(image.rgb)
    if found is None:
        return None, f"{tried}background kept: GrabCut found no clear subject; give a mask"
    return found.foreground, _checked_by_eye(f"{tried}background removed with GrabCut", found.doubt)


def _checked_by_eye(how: str, doubt: str) -> str:
    """Of a rule that errs now and then without a doubt, too."""
    return with_doubt(how, doubt) if doubt else f"{how}; give a mask where it errs"


def _compared(rgb: Image.Image, mask: Image.Image, doubt: str, segmenter: str) -> tuple[Image.Image, str]:
    """A segmenter's mask beside GrabCut's, which has learned no world of its own and stands in for a doubtful one."""
    other = grabcut(rgb)
    if other is not None and agreement(mask, other.foreground) < _LEAST_AGREEMENT:
        if doubt:
            apart = other.doubt or f"{segmenter} finds another subject"
            return other.foreground, with_doubt("background removed with GrabCut", apart)
        doubt = doubt or "GrabCut finds another subject"
    return mask, _checked_by_eye(f"background removed by {segmenter}", doubt)


def _checked_mask(mask: Image.Image, image: LoadedImage) -> Image.Image:
    if mask.size != image.rgb.size:
        raise ImageError(
            "mask: the picture's size {} x {} is expected, received {} x {}; draw the mask on the upright "
            "picture".format(*image.rgb.size, *mask.size)
        )
    if not any(mask.histogram()[:_INSIDE]):
        raise ImageError(
            "mask: white on the subject and black elsewhere is expected, received white everywhere; "
            "leave the mask out or draw the background black"
        )
    _check_subject(mask, "mask: the white part")
    return mask


def _check_subject(mask: Image.Image, what: str) -> None:
    left, top, right, bottom = _box(mask)
    if max(right - left, bottom - top) < _MIN_SUBJECT_PX:
        raise ImageError(
            f"{what} is expected to show a subject of {_MIN_SUBJECT_PX} px or more, received "
            f"{right - left} x {bottom - top} px; choose another picture or mask"
        )


def _box(mask: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is more subject than background; zeros when nothing is."""
    return mask.point([0] * _INSIDE + [255] * (256 - _INSIDE)).getbbox() or (0, 0, 0, 0)


def _framed(rgb: Image.Image, mask: Image.Image, size: int, *, fill: float, how: str) -> PreparedReference:
    """Scale so that the longer side of the mask's box takes `fill` of the frame, box centred, white around.

    rgb is white outside the mask already, so resampling it needs no weights.
    """
    left, top, right, bottom = _box(mask)
    side = max(right - left, bottom - top) / fill
    corner = ((left + right - side) / 2, (top + bottom - side) / 2)
    per_pixel = side / size
    columns, from_x, to_x = _span(corner[0], per_pixel, rgb.width, size)
    rows, from_y, to_y = _span(corner[1], per_pixel, rgb.height, size)
    target = (len(columns), len(rows))
    image = Image.new("RGB", (size, size), "white")
    frame_mask = Image.new("L", (size, size), 0)
    for canvas, original in ((image, rgb), (frame_mask, mask)):
        part = original.resize(target, Image.Resampling.LANCZOS, box=(from_x, from_y, to_x, to_y))
        canvas.paste(part, (columns.start, rows.start))
    return PreparedReference(image, np.asarray(frame_mask).astype(np.float32) / np.float32(255), how)


def _span(corner: float, per_pixel: float, extent: int, size: int) -> tuple[range, float, float]:
    """Along one axis: the whole pixels of the frame that the picture covers, and what they show of it.

    corner: where the frame begins in the picture. At least one pixel each, however thin the picture is.
    """
    start = min(max(round(-corner / per_pixel), 0), size - 1)
    stop = max(min(round((extent - corner) / per_pixel), size), start + 1)
    begin = min(max(corner + start * per_pixel, 0.0), extent - 1.0)
    end = max(min(corner + stop * per_pixel, float(extent)), begin + 1.0)
    return range(start, stop), begin, end
