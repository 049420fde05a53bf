"""Reading pictures: PNG, JPEG and WebP files as upright 8-bit RGB on white, with their transparency as a mask.

A file is judged by its content, never by its ending, and its size in pixels is read from its header
before anything is decoded. Nothing of Pillow's global state is touched.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.image_headers import HEADER_BYTES, Format, format_of, is_complete, webp_size

MAX_PIXELS = 25_000_000

Source = str | os.PathLike[str] | Image.Image
"""A file's path, or a picture that is in memory already."""

_IN_MEMORY = "picture in memory"
_MODES = ("RGB", "RGBA", "L", "LA", "1", "P", "PA", "CMYK", "YCbCr", "HSV", "I", "I;16", "I;16B")
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


@dataclass(frozen=True)
class LoadedImage:
    """A decoded picture.

    rgb: mode "RGB", upright, composited on white. alpha: mode "L", same size, 255 where opaque; None for
    a picture that is opaque everywhere. name: for messages.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    name: str = "picture"


def load_image(source: Source) -> LoadedImage:
    """Read a PNG, JPEG or WebP file; a picture in memory is brought to the same form.

    Raises: ImageError when the file is absent, not a regular file, empty, of another format, over MAX_PIXELS,
    truncated, broken or animated.
    """
    if not isinstance(source, Image.Image):
        return _read(Path(source), str(source))
    _check_size(source.size, _IN_MEMORY)
    if source.mode not in _MODES:
        known = ", ".join(_MODES)
        raise ImageError(
            f"{_IN_MEMORY}: one of the modes {known} is expected, received {source.mode}; convert it to RGB"
        )
    try:
        return _on_white(source, _IN_MEMORY)
    except Exception as error:  # it may be a file that Pillow opened but has not decoded yet
        raise ImageError(_broken("picture", _IN_MEMORY, error)) from error


def load_mask(source: Source) -> Image.Image:
    """Read a mask: mode "L", 255 on the subject, 0 on the background.

    The transparency of the file counts when it has any (a cut-out), its brightness otherwise.
    Raises: ImageError as `load_image`.
    """
    loaded = load_image(source)
    return loaded.rgb.convert("L") if loaded.alpha is None else loaded.alpha


def _on_white(image: Image.Image, name: str) -> LoadedImage:
    orientation = _orientation(image)
    upright = _upright(_as_8_bit(image), orientation)
    if not upright.has_transparency_data:
        return LoadedImage(upright.convert("RGB"), None, name)
    rgba = upright.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return LoadedImage(rgba.convert("RGB"), None, name)
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=alpha)
    return LoadedImage(white, alpha, name)


def _read(path: Path, name: str) -> LoadedImage:
    try:
        if not path.exists():
            raise ImageError(f"{name}: a PNG, JPEG or WebP file is expected, no such file; check the path")
        if not path.is_file():
            raise ImageError(
                f"{name}: a PNG, JPEG or WebP file is expected, received "
                f"{'a folder' if path.is_dir() else 'not a regular file'}; name one picture"
            )
        with path.open("rb") as file:
            return _decode(file, name)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: a readable file is expected, received {_reason(error)}; check it"
        ) from error


def _decode(file: BinaryIO, name: str) -> LoadedImage:
    header = file.read(HEADER_BYTES)
    kind = format_of(header)
    if kind is None:
        received = "something else" if header else "an empty file"
        raise ImageError(
            f"{name}: a PNG, JPEG or WebP file is expected, received {received}; convert it to one of them"
        )
    if kind == "WebP":
        # Pillow's WebP reader allocates the whole canvas when it opens a file.
        canvas = webp_size(header)
        if canvas is None:
            raise ImageError(_broken(kind, name, "no picture header"))
        _check_size(canvas, name)
    if not is_complete(file, kind):
        raise ImageError(_broken(kind, name, "its end is missing"))
    with warnings.catch_warnings():
        # Damaged metadata does not matter to the user; a header that promises too much does.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=[kind])
            _check_size(image.size, name)
            _check_still(image, kind, name)
            image.load()
            return _on_white(image, name)
        except ImageError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(_too_large("more than that", name)) from error
        except Exception as error:  # decoders raise nearly anything on a broken file
            raise ImageError(_broken(kind, name, error)) from error


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(_too_large(f"{width} x {height}", name))


def _check_still(image: Image.Image, kind: Format, name: str) -> None:
    # A phone's JPEG may carry previews or depth as further frames; its first one is the photograph.
    if kind != "JPEG" and getattr(image, "is_animated", False):
        raise ImageError(f"{name}: a still picture is expected, received an animation; save one frame of it")


def _too_large(received: str, name: str) -> str:
    megapixels = MAX_PIXELS // 1_000_000
    return f"{name}: at most {megapixels} megapixels are expected, received {received}; scale it down"


def _broken(kind: str, name: str, error: object) -> str:
    return (
        f"{name}: a whole {kind} is expected, received a truncated or broken one ({_reason(error)}); "
        "save it again"
    )


def _reason(error: object) -> str:
    """An error in one line; the system's own without its number and path."""
    text = (error.strerror or "") if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split()) or type(error).__name__


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # broken metadata does not make a picture unreadable
        return None


def _upright(image: Image.Image, orientation: object) -> Image.Image:
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _as_8_bit(image: Image.Image) -> Image.Image:
    """The same picture in a mode that Pillow converts to RGB or RGBA without loss of meaning.

    Only 16-bit grey is not: Pillow's own conversion clips it at 255 instead of scaling it.
    """
    if not image.mode.startswith("I"):
        return image
    levels = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    opaque = Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, opaque))
