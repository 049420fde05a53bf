"""The one transparent colour of a PNG of 16 bits a channel, compared at 16 bits.

Pillow decodes such a file at 8 bits, where a neighbouring colour is the same. A PNG's filters (PNG specification,
section 9) work on bytes at the distance of a whole pixel, so the high and the low bytes of all samples are two PNGs of
8 bits with the filters of the one.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.reference.image_headers import PNG_SIGNATURE
from dreamcache.runtime.reference.png_chunks import rows_of_passes

_SAMPLES = 3


def opacity_at_16_bits(file: BinaryIO, transparent: tuple[int, ...]) -> Image.Image:
    """Mode "L": 0 where a pixel is the transparent colour, else 255.

    file: a whole PNG of red, green and blue in 16 bits, whose size was checked. Raises: ValueError, zlib.error.
    """
    header, packed = _picture_chunks(file)
    sizes = rows_of_passes(header, 2 * _SAMPLES)
    stream = zlib.decompressobj().decompress(packed, sum(rows * bytes_ for rows, bytes_ in sizes))
    high, low = (_eight_bits(header, stream, sizes, which) for which in (0, 1))
    return Image.fromarray(
        np.where(((high << 8 | low) == np.array(transparent, np.uint16)).all(-1), 0, 255).astype(np.uint8)
    )


def _picture_chunks(file: BinaryIO) -> tuple[bytes, bytes]:
    """The header's content and the compressed rows."""
    file.seek(len(PNG_SIGNATURE))
    header, packed, name = b"", [], b""
    while name != b"IEND":
        length, name = struct.unpack(">I4s", file.read(8))
        body = file.read(length + 4)[:length]
        if name == b"IHDR":
            header = body
        elif name == b"IDAT":
            packed.append(body)
    return header, b"".join(packed)


def _eight_bits(header: bytes, stream: bytes, sizes: list[tuple[int, int]], which: int) -> NDArray[np.uint16]:
    """The high (0) or low (1) bytes of all samples, [h, w, 3]."""
    rows, place = [], 0
    for count, length in sizes:
        part = np.frombuffer(stream, np.uint8, count * length, place).reshape(count, length)
        rows.append(np.concatenate((part[:, :1], part[:, 1 + which :: 2]), axis=1).tobytes())
        place += count * length
    small = header[:8] + bytes([8]) + header[9:]
    chunks = ((b"IHDR", small), (b"IDAT", zlib.compress(b"".join(rows), 1)), (b"IEND", b""))
    content = PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )
    return np.asarray(Image.open(io.BytesIO(content), formats=["PNG"])).astype(np.uint16)
