"""Decoding a PNG, JPEG, WebP, AVIF or HEIC file whose size in pixels was read from its header."""

from __future__ import annotations

import warnings
from typing import Any, BinaryIO

from PIL import Image, features

from dreamcache.runtime.arguments import whole_number
from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.colour_profiles import NCLX_KEY
from dreamcache.runtime.reference.image_headers import (
    FORMATS,
    HEADER_BYTES,
    Format,
    format_of,
    is_complete,
    webp_size,
)
from dreamcache.runtime.reference.picture_sources import MOST_PIXELS, reason_of
from dreamcache.runtime.reference.png_16_bit import opacity_at_16_bits
from dreamcache.runtime.reference.png_chunks import PngParts, read_png

MAX_PIXELS = 25_000_000

_AVIF_BOXES_BYTES = 1 << 16


def check_max_pixels(value: int | None) -> int:
    """A limit of pixels, MAX_PIXELS for None. Raises: SettingsError outside 1 to MOST_PIXELS."""
    return MAX_PIXELS if value is None else whole_number("max_pixels", value, 1, MOST_PIXELS)


def decode(file: BinaryIO, name: str, limit: int) -> Image.Image:
    """The picture in a file that stands at its beginning, as Pillow decodes it; limit: pixels; name: for messages.

    Its colour profile is `info["icc_profile"]`, None where it is broken.
    Raises: ImageError as `images.load_image`.
    """
    header = file.read(HEADER_BYTES)
    kind = format_of(header)
    if kind is None:
        received = "something else" if header else "an empty file"
        raise ImageError(
            f"{name}: a {FORMATS} file is expected, received {received}; convert it to one of them"
        )
    if kind == "WebP":
        # Pillow's WebP reader allocates the whole canvas when it opens a file.
        canvas = webp_size(header)
        if canvas is None:
            raise ImageError(broken(kind, name, "no picture header"))
        check_picture_size(canvas, name, limit)
    if not is_complete(file, kind):
        raise ImageError(broken(kind, name, "its end is missing"))
    with warnings.catch_warnings():
        # Damaged metadata does not matter to the user, and the size is checked here.
        warnings.simplefilter("ignore")
        try:
            if kind == "HEIC":
                return _decode_heic(file, name, limit)
            parts = read_png(file, limit) if kind == "PNG" else None
            image = Image.open(file if parts is None else parts.file, formats=[kind])
            check_picture_size(image.size, name, limit)
            _check_still(image, kind, name)
            image.load()
            if parts is not None:
                return _with_parts(image, parts)
            if kind == "AVIF":
                _add_code_points(image, file)
            return image
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(_too_large("more than that", name, limit)) from error
        except Exception as error:  # decoders raise nearly anything on a broken file
            if kind == "AVIF" and not features.check("avif"):
                raise ImageError(
                    f"{name}: this Pillow reads no AVIF; update it with: pip install --upgrade pillow"
                ) from error
            raise ImageError(broken(kind, name, error)) from error


def _decode_heic(file: BinaryIO, name: str, limit: int) -> Image.Image:
    try:
        import pillow_heif
    except ModuleNotFoundError as error:
        raise ImageError(
            f"{name}: a HEIC file needs pillow-heif; install it with: pip install 'dreamcache[heif]', or save the "
            "picture as JPEG"
        ) from error
    opened_file = pillow_heif.open_heif(file)
    check_picture_size(opened_file.size, name, limit)
    image: Image.Image = opened_file.to_pillow()
    if "icc_profile" not in image.info and (codes := image.info.get("nclx_profile")):
        image.info[NCLX_KEY] = (codes["color_primaries"], codes["transfer_characteristics"])
    return image


def _add_code_points(image: Image.Image, file: BinaryIO) -> None:
    """What Pillow drops of an AVIF: primaries and transfer, where there is no profile."""
    file.seek(0)
    boxes = file.read(_AVIF_BOXES_BYTES)
    place = boxes.find(b"colrnclx") + 8
    if not image.info.get("icc_profile") and 8 <= place <= len(boxes) - 4:
        codes = (
            int.from_bytes(boxes[place : place + 2], "big"),
            int.from_bytes(boxes[place + 2 : place + 4], "big"),
        )
        image.info[NCLX_KEY] = codes


def _with_parts(image: Image.Image, parts: PngParts) -> Image.Image:
    """A PNG with what Pillow leaves out of it; its transparent value is compared at the file's own depth."""
    image.info.update(parts.colours)
    transparent: Any = image.info.get("transparency")
    if parts.colour_type == 2 and parts.depth == 16 and isinstance(transparent, tuple):
        del image.info["transparency"]
        image.putalpha(opacity_at_16_bits(parts.file, transparent))
    elif parts.colour_type == 0 and parts.depth in (2, 4) and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // (2**parts.depth - 1)
    return image


def check_picture_size(size: tuple[int, int], name: str, limit: int) -> None:
    """Raises: ImageError for more pixels than the limit."""
    width, height = size
    if width * height > limit:
        raise ImageError(_too_large(f"{width} x {height}", name, limit))


def _check_still(image: Image.Image, kind: Format, name: str) -> None:
    # A phone's JPEG may carry previews or depth as further frames; its first one is the photograph.
    if kind != "JPEG" and getattr(image, "is_animated", False):
        raise ImageError(f"{name}: a still picture is expected, received an animation; save one frame of it")


def _too_large(received: str, name: str, limit: int) -> str:
    return (
        f"{name}: at most {limit / 1e6:g} megapixels are expected, received {received}; scale it down, or raise the "
        "limit with --max-pixels"
    )


def broken(kind: str, name: str, error: object) -> str:
    """The line for a file that its decoder refuses."""
    return (
        f"{name}: a whole {kind} is expected, received a truncated or broken one ({reason_of(error)}); "
        "save it again"
    )
