"""Reading pictures as upright 8-bit sRGB on white, with their transparency as a mask.

A file is judged by its content, never by its ending, and its size in pixels is read from its header
before anything is decoded. Nothing of Pillow's global state is touched.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.colour_profiles import to_srgb
from dreamcache.runtime.reference.decode import broken, check_max_pixels, check_picture_size, decode
from dreamcache.runtime.reference.picture_sources import IN_MEMORY, Source, opened

_MODES = (
    *("RGB", "RGBA", "RGBa", "RGBX", "L", "LA", "1", "P", "PA"),
    *("CMYK", "YCbCr", "HSV", "I", "I;16", "I;16L", "I;16B"),
)
_GREY = ("1", "L", "LA")
# Where Pillow has 16 bits in mode I.
_GREY_16_IN_I = ("PNG", "PPM")
_EXIF_ORIENTATION = 0x0112
# EXIF 2.3, tag Orientation: what brings a picture stored that way upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureWarning(UserWarning):
    """A picture was read, but not all that its file says could be respected."""


@dataclass(frozen=True)
class LoadedImage:
    """A decoded picture.

    rgb: mode "RGB", sRGB, upright, composited on white. alpha: mode "L", same size, 255 where opaque; None for
    a picture that is opaque everywhere. name: for messages.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    name: str = "picture"


def load_image(source: Source, max_pixels: int | None = None) -> LoadedImage:
    """Read a picture: a file, its content, or what is in memory already (see `Source`).

    max_pixels: of the largest picture that is decoded; None is MAX_PIXELS.
    Raises: ImageError when the file is absent, not a regular file, empty, of another format, over max_pixels,
    truncated, broken or animated. Warns: PictureWarning for colours that could not be converted.
    """
    loaded, note = _load(source, max_pixels, in_srgb=True)
    if note is not None:
        warnings.warn(f"{loaded.name}: {note}; the colours are read as sRGB", PictureWarning, stacklevel=2)
    return loaded


def load_mask(source: Source, max_pixels: int | None = None) -> Image.Image:
    """Read a mask: mode "L", 255 on the subject, 0 on the background.

    The transparency of the file counts when it has any (a cut-out), its brightness otherwise, as it is stored.
    Raises: ImageError as `load_image`.
    """
    loaded, _ = _load(source, max_pixels, in_srgb=False)
    return loaded.rgb.convert("L") if loaded.alpha is None else loaded.alpha


def _load(source: Source, max_pixels: int | None, in_srgb: bool) -> tuple[LoadedImage, str | None]:
    limit = check_max_pixels(max_pixels)
    with opened(source) as (content, name):
        image = _checked(content, limit) if isinstance(content, Image.Image) else decode(content, name, limit)
        try:
            return _on_white(image, name, in_srgb)
        except Exception as error:  # it may be a file that Pillow opened but has not decoded yet
            raise ImageError(broken("picture", name, error)) from error


def _checked(image: Image.Image, limit: int) -> Image.Image:
    if not all(image.size):
        raise ImageError(f"{IN_MEMORY}: a pixel or more is expected, received {image.width} x {image.height}")
    check_picture_size(image.size, IN_MEMORY, limit)
    if image.mode not in _MODES:
        raise ImageError(
            f"{IN_MEMORY}: one of the modes {', '.join(_MODES)} is expected, received {image.mode}; convert it to RGB"
        )
    transparent = (image.info or {}).get("transparency")
    if image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent, default=0) > 255:
        # of a PNG of 16 bits, whose pixels Pillow has at 8
        image = image.copy()
        image.info["transparency"] = tuple(level >> 8 for level in transparent)
    return image


def _on_white(image: Image.Image, name: str, in_srgb: bool) -> tuple[LoadedImage, str | None]:
    image.load()  # Pillow turns a TIFF upright itself when it decodes it, and takes the mark away
    turn = _UPRIGHT.get(_orientation(image))
    colour, alpha = _split(_as_8_bit(image))
    note = None
    if in_srgb:
        # without the transparent colour, which is in `alpha` already
        colour.info = {name: value for name, value in image.info.items() if name != "transparency"}
        colour, note = to_srgb(colour)
    rgb = colour.convert("RGB")
    if turn is not None:
        rgb, alpha = rgb.transpose(turn), None if alpha is None else alpha.transpose(turn)
    if alpha is None or alpha.getextrema() == (255, 255):
        return LoadedImage(rgb, None, name), note
    seen = rgb.convert("RGBA")
    seen.putalpha(alpha)
    white = Image.new("RGBA", seen.size, "white")
    return LoadedImage(Image.alpha_composite(white, seen).convert("RGB"), alpha, name), note


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours as they are stored, in mode L, RGB or CMYK, and the transparency, mode L."""
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba.getchannel("R") if image.mode in _GREY else rgba.convert("RGB"), rgba.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image.copy(), None
    return image.convert("L" if image.mode in _GREY else "RGB"), None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken metadata does not make a picture unreadable
        return 1


def _as_8_bit(image: Image.Image) -> Image.Image:
    """The same picture in a mode that Pillow converts to RGB or RGBA without loss of meaning.

    Only 16-bit grey is not: Pillow's own conversion clips it at 255 instead of scaling it. Mode I that was made in
    memory, or that a TIFF holds, is of 8 bits where nothing is above 255, as `convert("I")` writes it.
    """
    if not image.mode.startswith("I"):
        return image
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    if image.mode == "I" and image.format not in _GREY_16_IN_I and levels.max() <= 255:
        return Image.fromarray(levels.astype(np.uint8))
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    opaque = Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, opaque))
