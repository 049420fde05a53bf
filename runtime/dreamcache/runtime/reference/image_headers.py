"""Format, size and completeness of a PNG, JPEG or WebP file, read before it is decoded.

PNG specification (W3C), sections 5.2 and 5.3; WebP container specification; RFC 6386, section 9.1.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Literal

Format = Literal["PNG", "JPEG", "WebP"]

HEADER_BYTES = 32
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def format_of(header: bytes) -> Format | None:
    """The format that the first HEADER_BYTES of a file announce; None for any other."""
    if header.startswith(_PNG_SIGNATURE):
        return "PNG"
    if header.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return "WebP"
    return None


def webp_size(header: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP's canvas in pixels; None when its first chunk holds none."""
    chunk, body = header[12:16], header[20:30]
    if len(body) < 10:
        return None
    if chunk == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L":
        packed = int.from_bytes(body[1:5], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return None


def is_complete(file: BinaryIO, kind: Format) -> bool:
    """Whether the file is as long as its own structure says.

    A file cut inside its last bytes may still decode. JPEG tells no length; its decoder reports a missing
    end by itself. Leaves the file at its beginning.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if kind == "WebP":
        (length,) = struct.unpack("<I", file.read(8)[4:])
        complete = size >= 8 + int(length)
    else:
        complete = kind == "JPEG" or _reaches_png_end(file, size)
    file.seek(0)
    return complete


def _reaches_png_end(file: BinaryIO, size: int) -> bool:
    """Whether the chain of chunks leads to IEND inside the file."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= size:
        file.seek(place)
        length, chunk = struct.unpack(">I4s", file.read(8))
        place += 12 + int(length)
        if chunk == b"IEND":
            return place <= size
    return False
