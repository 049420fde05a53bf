"""Colours as the picture's own profile means them, converted to sRGB by littleCMS.

In order: an ICC profile, code points (PNG's cICP, AVIF's and HEIC's nclx; ITU-T H.273), PNG's sRGB, gAMA and cHRM
chunks (PNG specification, section 4.3), Adobe RGB as cameras mark it in EXIF (DCF 2.0). What says nothing is sRGB.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_D65 = (0.3127, 0.329)
_BT709 = (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# H.273, table 2: code points of primaries as the chromaticities of red, green and blue, white after them.
_PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (*_BT709, *_D65),
    5: (0.64, 0.33, 0.29, 0.6, 0.15, 0.06, *_D65),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65),
    7: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, *_D65),
    9: (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, *_D65),
    11: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.314, 0.351),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, *_D65),
}
# Table 3: transfer characteristics as a gamma; 0 is sRGB's curve, which stands for BT.709's in still pictures.
_TRANSFERS = {1: 0.0, 4: 2.2, 5: 2.8, 6: 0.0, 8: 1.0, 13: 0.0, 14: 0.0, 15: 0.0}
_HDR = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2
_ADOBE_RGB = ((0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *_D65), 563 / 256)
_EXIF_INTEROPERABILITY = 0xA005
_SRGB_GAMMA = 1 / 2.2
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

NCLX_KEY = "cicp"
"""Where `Image.info` holds the code points of primaries and transfer characteristics."""


class _UnconvertedError(ValueError):
    """Colours that a picture states soundly and that are not converted; the text says which."""


def to_srgb(image: Image.Image) -> tuple[Image.Image, str | None]:
    """A picture of mode L, RGB or CMYK in sRGB, and what could not be converted in a few words.

    Transparency is not looked at. The result is of mode RGB, or the picture itself where nothing is to be done.
    """
    try:
        profile = _profile(image)
        if profile is None:
            return image, None
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = str(source.profile.xcolor_space).strip()
        modes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
        if modes.get(space) != image.mode and (space, image.mode) != ("RGB", "L"):
            return image, f"its colour profile is for {space or 'nothing'}, its pixels are {image.mode}"
        pixels = image.convert("RGB") if space == "RGB" else image
        made = ImageCms.profileToProfile(
            pixels, source, ImageCms.createProfile("sRGB"), ImageCms.Intent.PERCEPTUAL, "RGB"
        )
    except _UnconvertedError as error:
        return image, str(error)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, struct.error, np.linalg.LinAlgError):
        return image, "its colour profile is broken"
    assert made is not None
    return made, None


def _profile(image: Image.Image) -> bytes | None:
    """The ICC profile that a picture has or describes; None for sRGB. Raises: ValueError for a broken one."""
    info = image.info
    if (codes := info.get(NCLX_KEY)) is not None and image.mode != "CMYK":
        return _of_code_points(*codes)
    if "icc_profile" in info:
        if not info["icc_profile"]:
            raise ValueError("pieces of the profile are missing")
        return bytes(info["icc_profile"])
    if image.mode == "CMYK" or "srgb" in info:
        return None
    if "gamma" in info or "chromaticity" in info:
        return _of_gamma(info.get("gamma"), info.get("chromaticity"))
    if _is_adobe_rgb(image):
        return matrix_profile(*_ADOBE_RGB)
    return None


def _of_code_points(primaries: int, transfer: int) -> bytes | None:
    primaries = 1 if primaries == _UNSPECIFIED else primaries
    transfer = 13 if transfer == _UNSPECIFIED else transfer
    if transfer in _HDR:
        raise _UnconvertedError(
            f"its colours are HDR ({_HDR[transfer]}); save it without, where they look pale"
        )
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        raise _UnconvertedError(f"its code points of colours, {primaries} and {transfer}, are not known")
    if primaries == 1 and _TRANSFERS[transfer] == 0:
        return None
    return matrix_profile(_PRIMARIES[primaries], _TRANSFERS[transfer])


def _of_gamma(gamma: float | None, chromaticity: Sequence[float] | None) -> bytes | None:
    """gamma: of the file's samples, 0.45455 for ordinary pictures. chromaticity: white, red, green, blue."""
    exponent = 0.0
    if gamma is not None and abs(gamma - _SRGB_GAMMA) > 0.01:
        if not 0.1 <= gamma <= 10:
            raise ValueError(f"gamma {gamma}")
        exponent = 1 / gamma
    points = _PRIMARIES[1] if chromaticity is None else (*chromaticity[2:], *chromaticity[:2])
    usual = len(points) == 8 and np.allclose(points, _PRIMARIES[1], atol=2e-3)
    return None if usual and not exponent else matrix_profile(points, exponent)


def _is_adobe_rgb(image: Image.Image) -> bool:
    try:
        return str(image.getexif().get_ifd(_EXIF_INTEROPERABILITY).get(1, "")).startswith("R03")
    except Exception:  # broken metadata does not make a picture unreadable
        return False


def matrix_profile(points: Sequence[float], gamma: float) -> bytes:
    """An ICC profile (ICC.1:2010) of three primaries and one curve.

    points: x and y of red, green, blue and white. gamma: exponent from samples to light; 0 is sRGB's curve.
    Raises: ValueError or LinAlgError for chromaticities that span no colours.
    """
    x, y = np.array(points, dtype=np.float64).reshape(4, 2).T
    if not np.isfinite([*x, *y]).all() or (y <= 0).any():
        raise ValueError(f"chromaticities {points}")
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    white = xyz[:, 3]
    primaries = xyz[:, :3] * np.linalg.solve(xyz[:, :3], white)
    gain = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    columns = (np.linalg.inv(_BRADFORD) @ np.diag(gain) @ _BRADFORD @ primaries).T
    if not np.isfinite(columns).all() or np.abs(columns).max() > 4:
        raise ValueError(f"chromaticities {points}")
    curve = (
        _parametric(0, gamma) if gamma else _parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    )
    tags = {b"wtpt": _xyz(_D50)}
    for name, column in zip((b"r", b"g", b"b"), columns, strict=True):
        tags |= {name + b"XYZ": _xyz(column), name + b"TRC": curve}
    return _icc_file(tags)


def _icc_file(tags: dict[bytes, bytes]) -> bytes:
    body, place = b"", 132 + 12 * len(tags)
    table = struct.pack(">I", len(tags))
    for name, data in tags.items():
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x3i48x",
        *(place + len(body), 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp", *_fixed(_D50)),
    )
    return header + table + body


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *_fixed(values))


def _parametric(form: int, *values: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(f">HH{len(values)}i", form, 0, *_fixed(np.array(values)))


def _fixed(values: NDArray[np.float64]) -> list[int]:
    """Numbers with 16 bits after the point."""
    return [round(float(value) * 65536) for value in values]
