"""A PNG without the chunks that are not its picture, and what it says of its colours.

PNG specification (W3C, third edition), sections 5.6, 11.3.2 and 13.12. Pillow refuses a whole picture for a long text,
a large profile or a wrong checksum in a chunk that no decoder needs, and does not read cICP.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from math import ceil
from typing import Any, BinaryIO

from dreamcache.runtime.reference.image_headers import PNG_SIGNATURE

_MAX_PROFILE_BYTES = 16 << 20
_MAX_TEXT_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20
# Chunks without which the picture would be another one, or another size.
_PICTURE = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT"}
_TEXTS = {b"tEXt", b"zTXt"}
_LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}
# Colours are said once, before the palette and the pixels; elsewhere decoders pass over them (section 5.6).
_COLOURS = {b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP"}
_ABOUT = {b"eXIf", *_COLOURS, *_TEXTS}
# ImageMagick keeps EXIF, and with it how the picture is turned, in texts of these names.
_EXIF_KEYWORDS = (b"Raw profile type exif\0", b"Raw profile type APP1\0")


@dataclass(frozen=True)
class PngParts:
    """file: the PNG with the chunks that count. depth: bits of a sample. colour_type: as IHDR has it.

    colours: for `Image.info`: "icc_profile" (None: broken) and "cicp" (code points of primaries and transfer).
    """

    file: BinaryIO
    depth: int
    colour_type: int
    colours: dict[str, Any]


def read_png(file: BinaryIO, limit: int) -> PngParts:
    """The parts of a PNG whose chunks reach its end; limit: pixels, above which it is not decoded.

    Raises: ValueError for one of more than 1 GiB, and for one that lacks rows: Pillow takes those as black.
    """
    file.seek(len(PNG_SIGNATURE))
    kept, colours = io.BytesIO(), dict[str, Any]()
    kept.write(PNG_SIGNATURE)
    depth = colour_type = 0
    rows: _Rows | None = None
    name, seen = b"", set[bytes]()
    while name != b"IEND":
        if kept.tell() > _MAX_FILE_BYTES:
            raise ValueError("more than 1 GiB of pixels")
        head = file.read(8)
        length, name = struct.unpack(">I4s", head)
        # Lower case: a decoder may do without the chunk.
        ancillary = name[:1].islower() and name not in _PICTURE
        late = name in _COLOURS and bool(seen & {name, b"PLTE", b"IDAT"})
        seen.add(name)
        if ancillary and (late or name not in _ABOUT or length > _MAX_PROFILE_BYTES):
            file.seek(length + 4, io.SEEK_CUR)
            continue
        body, checksum = file.read(length), file.read(4)
        sound = int.from_bytes(checksum, "big") == zlib.crc32(name + body)
        if name == b"IHDR" and length >= 10:
            depth, colour_type = body[8], body[9]
            rows = _Rows.of_header(body, limit)
        elif name == b"IDAT" and rows is not None:
            rows.add(body)
        if name == b"iCCP":
            colours["icc_profile"] = _inflated(body, _MAX_PROFILE_BYTES) if sound else None
        elif name == b"cICP":
            colours |= {"cicp": (body[0], body[1])} if sound and length == 4 else {}
        elif not ancillary or (sound and _is_wanted(name, body)):
            kept.write(head + body + checksum)
    if rows is not None and rows.missing > 0:
        raise ValueError(f"{rows.missing} bytes of its rows are missing")
    kept.seek(0)
    return PngParts(kept, depth, colour_type, colours)


# Per pass of Adam7: first column and row, and the steps between two (PNG specification, section 8.2).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def rows_of_passes(header: bytes, pixel_bytes: float) -> list[tuple[int, int]]:
    """How many rows each pass of a picture has, and how many bytes a row with its filter. header: IHDR's."""
    width, height = struct.unpack(">II", header[:8])
    passes = _PASSES if header[12:13] == b"\1" else ((0, 0, 1, 1),)
    sides = ((-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in passes)
    return [(rows, 1 + ceil(columns * pixel_bytes)) for columns, rows in sides if min(columns, rows) > 0]


class _Rows:
    """How much of a picture's rows is still to come, while its compressed pieces are read. missing: bytes."""

    def __init__(self, missing: int) -> None:
        self.missing = missing
        self._unpacking = zlib.decompressobj()

    @classmethod
    def of_header(cls, header: bytes, limit: int) -> _Rows | None:
        """header: IHDR's. None for a picture that no decoder takes: it says by itself what is wrong."""
        width, height, depth, colour_type = struct.unpack(">IIBB", header[:10])
        if colour_type not in _SAMPLES or depth not in (1, 2, 4, 8, 16) or not 0 < width * height <= limit:
            return None
        sizes = rows_of_passes(header, depth * _SAMPLES[colour_type] / 8)
        return cls(sum(rows * length for rows, length in sizes))

    def add(self, packed: bytes) -> None:
        """One piece; what is no zlib stream is left to the decoder's own words."""
        try:
            while packed and self.missing > 0:
                self.missing -= len(self._unpacking.decompress(packed, min(self.missing, _PIECE_BYTES)))
                packed = self._unpacking.unconsumed_tail
        except zlib.error:
            self.missing = 0


def _is_wanted(name: bytes, body: bytes) -> bool:
    if name not in _TEXTS:
        return len(body) == _LENGTHS.get(name, len(body))
    text = body if name == b"tEXt" else _inflated(body, _MAX_TEXT_BYTES)
    return body.startswith(_EXIF_KEYWORDS) and text is not None and len(text) < _MAX_TEXT_BYTES


def _inflated(body: bytes, most: int) -> bytes | None:
    """What follows a chunk's keyword and its method of compression; None when it is broken or longer than `most`."""
    packed = body.partition(b"\0")[2][1:]
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, most)
    except zlib.error:
        return None
    return text if unpacking.eof and text else None
