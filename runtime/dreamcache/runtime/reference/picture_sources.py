"""What a picture may be given as: a path, bytes, an open file, a Pillow image, a numpy array."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dreamcache.runtime.errors import DreamCacheError, ImageError
from dreamcache.runtime.reference.image_headers import FORMATS, HEADER_BYTES, format_of, is_complete

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]
"""A file's path; its content; a binary file, read from its beginning and left open; a picture in memory; an array.

Arrays: [h, w], [h, w, 1], [h, w, 2] (grey and alpha), [h, w, 3] or [h, w, 4] (RGB and RGBA), sRGB. uint8 and uint16 use
their whole range, floats are 0 to 1, bool is black and white.
"""

IN_MEMORY = "picture in memory"
MOST_PIXELS = 178_000_000
"""Above this Pillow refuses a picture by itself, unless a setting of the whole process is changed."""
_MAX_STREAM_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20
# What resampling in floats leaves beyond 0 and 1.
_ROUNDING = 1e-3


@contextmanager
def opened(source: object) -> Iterator[tuple[BinaryIO | Image.Image, str]]:
    """The file to decode, or the picture, and its name for messages.

    Raises: ImageError for a file that cannot be read, an array of another form, and anything else.
    """
    if isinstance(source, Image.Image):
        yield source, IN_MEMORY
    elif isinstance(source, np.ndarray):
        yield from_array(source), IN_MEMORY
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source.tobytes() if isinstance(source, memoryview) else source), IN_MEMORY
    elif callable(getattr(source, "read", None)):
        name = getattr(source, "name", None)
        yield _buffered(source), name if isinstance(name, str) else "picture file"
    elif isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        with _file(Path(name), name) as file:
            yield file, name
    else:
        raise ImageError(
            f"a picture is expected as a path, bytes, a binary file, a Pillow image or a numpy array, "
            f"received {type(source).__name__}"
        )


def from_array(array: NDArray[Any]) -> Image.Image:
    """An array (see `Source`) as a picture. Raises: ImageError naming the shape, type or values expected."""
    channels = {2: 1}.get(array.ndim, array.shape[-1] if array.ndim == 3 else 0)
    if channels not in (1, 2, 3, 4) or 0 in array.shape:
        raise ImageError(
            "an array of the shape [h, w], [h, w, 1], [h, w, 2], [h, w, 3] or [h, w, 4] is expected, received "
            f"{list(array.shape)}"
        )
    if array.shape[0] * array.shape[1] > MOST_PIXELS:  # a view of one number can be of any size
        raise ImageError(
            f"an array of at most {MOST_PIXELS / 1e6:g} megapixels is expected, received {list(array.shape)}"
        )
    if array.dtype == np.bool_:
        levels = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint8:
        levels = array
    elif array.dtype.type is np.uint16:  # in either order of its bytes, as TIFF readers give them
        levels = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        # min() and max() of NaN are NaN, which no comparison accepts
        if not (array.min() >= -_ROUNDING and array.max() <= 1 + _ROUNDING):
            raise ImageError(
                f"an array of floats from 0 to 1 is expected, received {array.min():g} to {array.max():g}; "
                "divide by the largest value, or give uint8"
            )
        levels = np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    else:
        raise ImageError(
            f"an array of uint8, uint16, bool or floats from 0 to 1 is expected, received {array.dtype}; "
            "convert it"
        )
    flat = levels.reshape(array.shape[:2]) if channels == 1 else levels
    return Image.fromarray(np.ascontiguousarray(flat), {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels])


@contextmanager
def _file(path: Path, name: str) -> Iterator[BinaryIO]:
    expected = f"{name}: a {FORMATS} file is expected"
    try:
        if not path.exists():
            raise ImageError(f"{expected}, no such file; check the path")
        if not path.is_file():
            received = "a folder" if path.is_dir() else "not a regular file"
            raise ImageError(f"{expected}, received {received}; name one picture")
        with path.open("rb") as file:
            yield file
    except DreamCacheError:
        raise
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: a readable file is expected, received {reason_of(error)}; check it"
        ) from error


def _buffered(stream: Any) -> BinaryIO:
    """A stream's content, whether or not one can move in it. Raises: ImageError for text, or more than 1 GiB."""
    try:
        if getattr(stream, "seekable", bool)():
            stream.seek(0)
        content = stream.read(_MAX_STREAM_BYTES + 1)
        if isinstance(content, bytes) and not _is_whole(content):
            content = _read_on(stream, content)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ImageError(
            f"a binary file that can be read is expected, received one that cannot ({reason_of(error)})"
        ) from error
    if not isinstance(content, bytes) or len(content) > _MAX_STREAM_BYTES:
        received = "text" if isinstance(content, str) else "something else or more than 1 GiB"
        raise ImageError(f"a binary file of a picture is expected, received {received}; open it with 'rb'")
    return io.BytesIO(content)


def _is_whole(content: bytes) -> bool:
    """Whether nothing more is to be read: too much already, or a file that tells its length is as long as it says."""
    kind = format_of(content[:HEADER_BYTES])
    return len(content) > _MAX_STREAM_BYTES or (
        kind is not None and kind != "JPEG" and is_complete(io.BytesIO(content), kind)
    )


def _read_on(stream: Any, content: bytes) -> bytes:
    """The rest after a first piece: a pipe or a socket gives what is there."""
    whole = bytearray(content)
    while len(whole) <= _MAX_STREAM_BYTES and (more := stream.read(_PIECE_BYTES)):
        whole += more
    return bytes(whole)


def reason_of(error: object) -> str:
    """An error in one line; the system's own without its number and path."""
    if isinstance(error, UnidentifiedImageError):  # whose text is an object's address
        return "no picture header that can be read"
    text = (error.strerror or "") if isinstance(error, OSError) and error.errno else str(error)
    return " ".join(text.split()) or type(error).__name__
