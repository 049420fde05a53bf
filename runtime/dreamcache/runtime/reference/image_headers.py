"""Format, size and completeness of a picture file, read before it is decoded.

PNG specification (W3C), sections 5.2 and 5.3; WebP container specification; RFC 6386, section 9.1; ISO/IEC 14496-12
(the boxes of AVIF and HEIC files).
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Literal

Format = Literal["PNG", "JPEG", "WebP", "AVIF", "HEIC"]
FORMATS = "PNG, JPEG, WebP, AVIF or HEIC"

HEADER_BYTES = 64
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_BOXES = {b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"idat", b"uuid"}


def format_of(header: bytes) -> Format | None:
    """The format that the first HEADER_BYTES of a file announce; None for any other."""
    if header.startswith(PNG_SIGNATURE):
        return "PNG"
    if header.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return "WebP"
    if header[4:8] == b"ftyp":
        length = min(int.from_bytes(header[:4], "big"), HEADER_BYTES)
        brands = {header[8:12], *(header[at : at + 4] for at in range(16, length, 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & _HEIC_BRANDS:
            return "HEIC"
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
    elif kind == "PNG":
        complete = _reaches_png_end(file, size)
    else:
        complete = kind == "JPEG" or _holds_its_boxes(file, size)
    file.seek(0)
    return complete


def _reaches_png_end(file: BinaryIO, size: int) -> bool:
    """Whether the chain of chunks leads to IEND inside the file."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= size:
        file.seek(place)
        length, chunk = struct.unpack(">I4s", file.read(8))
        place += 12 + int(length)
        if chunk == b"IEND":
            return place <= size
    return False


def _holds_its_boxes(file: BinaryIO, size: int) -> bool:
    """Whether the boxes of an AVIF or HEIC file end inside it, pixels among them; what is appended does not count."""
    place, found = 0, set()
    while place + 8 <= size:
        file.seek(place)
        length, box = struct.unpack(">I4s", file.read(8))
        if box not in _BOXES:
            break
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        elif length == 0:
            length = size - place
        if length < 8 or place + length > size:
            return False
        found.add(box)
        place += length
    return b"meta" in found and bool(found & {b"mdat", b"idat", b"moov"})
