"""Picture files as bytes: PNG chunks, photographs in each format, and files that hold them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.reference.images import load_image

FORMATS = ("PNG", "JPEG", "WEBP")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int, depth: int = 8, colour_type: int = 2) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body)


def grey16_png(levels: NDArray[np.uint16], transparent: int | None = None) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    see_through = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    header = png_header(levels.shape[1], levels.shape[0], depth=16, colour_type=0)
    return header + see_through + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def photograph(width: int = 48, height: int = 32) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    channels = (x * 255 // width, y * 255 // height, 127 + 120 * np.sin(x / 5) * np.cos(y / 4))
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def written(folder: Path, content: bytes, name: str = "picture") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def pixels(path: Path) -> NDArray[np.int16]:
    loaded = load_image(path)
    assert loaded.rgb.mode == "RGB"
    return np.asarray(loaded.rgb).astype(np.int16)
