"""ICC profiles written by hand, for pictures whose colours are not sRGB (ICC.1:2001-04, version 2)."""

from __future__ import annotations

import struct

import numpy as np

_D50 = (63190, 65536, 54061)


def icc_file(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    body, place = b"", 132 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    fields = (place + len(body), 2 << 24, kind, space, connection, b"acsp", *_D50)
    header = struct.pack(">I4xI4s4s4s12x4s28x3i48x", *fields)
    return header + table + body


def grey_profile(gamma: float) -> bytes:
    """Grey samples with a plain exponent."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *_D50)
    return icc_file(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": white, b"kTRC": curve})


def cmyk_profile() -> bytes:
    """Inks that are duller than Pillow's own idea of them: the sixteen corners in Lab, straight between them."""
    inks = {0: (55, -35, -50), 1: (48, 70, -4), 2: (88, -5, 90), 3: (18, 0, 0)}
    grid = []
    for corner in range(16):
        lab = np.array([96.0, 0.0, 0.0])
        for ink, colour in inks.items():
            if corner >> (3 - ink) & 1:
                lab = lab * [colour[0] / 96, 0.6, 0.6] + [0, colour[1], colour[2]]
        grid += [round(lab[0] * 652.8), *(round((value + 128) * 256) for value in lab[1:])]
    ramp = struct.pack(">2H", 0, 65535)
    identity = struct.pack(">9i", *(65536 * (at % 4 == 0) for at in range(9)))
    table = b"mft2\0\0\0\0" + struct.pack(">4B", 4, 3, 2, 0) + identity + struct.pack(">2H", 2, 2)
    table += ramp * 4 + struct.pack(f">{len(grid)}H", *np.clip(grid, 0, 65535)) + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", *_D50)
    return icc_file(b"CMYK", b"Lab ", b"prtr", {b"wtpt": white, b"A2B0": table})
