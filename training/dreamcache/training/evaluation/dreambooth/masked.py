"""Pictures with a white background, for MDINO and MCLIP-I: what is compared is the subject alone.

The masked scores are the plain ones with the background taken away from real and generated pictures alike; white is
what DreamCache's references stand on (METHOD.md, "Caching"). The paper does not say in its main text which segmenter
it used, so figures of different segmenters do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.images import load_image, load_mask
from dreamcache.runtime.reference.segmentation import grabcut, has_grabcut, plain_background

How = Literal["given mask", "transparency", "plain background", "GrabCut", "skipped"]
MASK_ENDING = ".png"

# A mask below this level everywhere shows nothing.
_INSIDE = 128


@dataclass(frozen=True)
class Masked:
    """picture: RGB on white; None when no subject was found. how: by which way."""

    picture: Image.Image | None
    how: How


def mask_of(folder: Path | None, picture: Path) -> Path | None:
    """The given mask of a picture: FOLDER/<subject or row …>/<name of the picture>.png, when there is one.

    folder: that holds the masks of the pictures beside it.
    """
    if folder is None:
        return None
    path = folder / f"{picture.stem}{MASK_ENDING}"
    return path if path.is_file() else None


def whiten_background(path: Path, mask: Path | None = None) -> Masked:
    """A picture without its background, by the first way that there is.

    They are: the given mask, the file's transparency, a background of one colour, GrabCut (extra `segment`). A picture
    in which none finds a subject is skipped, never scored with its background.

    Raises:
        ImageError: the picture or its mask cannot be read, or the mask is of another size or empty.
    """
    loaded = load_image(path)
    if mask is not None:
        return Masked(_cut(loaded.rgb, _given(mask, loaded.rgb.size)), "given mask")
    if loaded.alpha is not None:
        # load_image has put it on white already
        shown = _shows(loaded.alpha)
        return Masked(loaded.rgb if shown else None, "transparency" if shown else "skipped")
    plain = plain_background(loaded.rgb)
    if plain is not None and _shows(plain.foreground):
        return Masked(_cut(loaded.rgb, plain.foreground), "plain background")
    found = grabcut(loaded.rgb) if has_grabcut() and plain is None else None
    if found is None:
        return Masked(None, "skipped")
    return Masked(_cut(loaded.rgb, found.foreground), "GrabCut")


def _given(path: Path, size: tuple[int, int]) -> Image.Image:
    mask = load_mask(path)
    if mask.size != size:
        raise ImageError(
            f"{path}: the picture's size {size[0]} x {size[1]} is expected, "
            f"received {mask.size[0]} x {mask.size[1]}; draw the mask on the picture"
        )
    if not _shows(mask):
        raise ImageError(
            f"{path}: white on the subject is expected, received no white; draw it, or delete the file"
        )
    return mask


def _shows(mask: Image.Image) -> bool:
    return any(mask.histogram()[_INSIDE:])


def _cut(rgb: Image.Image, mask: Image.Image) -> Image.Image:
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=mask)
    return white
