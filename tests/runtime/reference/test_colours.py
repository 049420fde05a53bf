"""Colours arrive as the file means them: every kind of profile, judged by littleCMS and by known colours."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from icc_profiles import cmyk_profile, grey_profile
from numpy.typing import NDArray
from picture_files import chunk, grey16_png, photograph, png_header, saved, written
from PIL import Image, ImageCms

from dreamcache.runtime.reference.colour_profiles import _ADOBE_RGB, _PRIMARIES, matrix_profile
from dreamcache.runtime.reference.images import PictureWarning, load_image, load_mask

P3 = matrix_profile(_PRIMARIES[12], 0.0)
ADOBE_RGB = matrix_profile(*_ADOBE_RGB)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# A red that every telephone's Display P3 photograph holds, and the same red in sRGB.
RED_P3, RED = (211, 55, 52), (230, 30, 40)


def by_littlecms(image: Image.Image, profile: bytes) -> NDArray[np.int16]:
    made = ImageCms.profileToProfile(
        image, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert made is not None
    return np.asarray(made).astype(np.int16)


def read(folder: Path, content: bytes) -> NDArray[np.int16]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(load_image(written(folder, content)).rgb).astype(np.int16)


def test_profiles_of_known_colours_are_true() -> None:
    """The profiles that we write ourselves, against published values of three colours."""
    for colour, profile, expected in (
        (RED_P3, P3, RED),
        ((219, 0, 0), ADOBE_RGB, (255, 0, 0)),
        ((144, 255, 60), ADOBE_RGB, (0, 255, 0)),
        ((128, 128, 128), matrix_profile(_PRIMARIES[1], 1.0), (188, 188, 188)),
    ):
        assert np.abs(by_littlecms(Image.new("RGB", (1, 1), colour), profile)[0, 0] - expected).max() <= 2
    assert np.abs(by_littlecms(photograph(), SRGB) - np.asarray(photograph())).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("profile", [P3, ADOBE_RGB], ids=["P3", "Adobe RGB"])
def test_a_profile_is_respected_in_every_format(tmp_path: Path, kind: str, profile: bytes) -> None:
    options = {"PNG": {}, "WEBP": {"lossless": True}}.get(kind, {"quality": 95, "subsampling": 0})
    if kind == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4"}
    content = saved(photograph(), kind, icc_profile=profile, **options)
    stored = Image.open(io.BytesIO(content)).convert("RGB")
    expected = by_littlecms(stored, profile)
    assert np.abs(read(tmp_path, content) - expected).max() <= 1
    assert np.abs(np.asarray(stored).astype(np.int16) - expected).max() > 8


@pytest.mark.parametrize("mode", ["P", "RGBA", "PA", "L", "LA", "1", "I;16"])
def test_a_profile_is_respected_in_every_mode(tmp_path: Path, mode: str) -> None:
    """The alpha channel is no colour, a palette's entries are, and grey may have a profile of either kind."""
    grey = mode in ("L", "LA", "1", "I;16")
    original = photograph().convert("L") if grey else photograph()
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(original).astype(np.uint16) * 257)
    else:
        picture = original.convert(mode.replace("PA", "P"))
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.new("L", picture.size, 200))
    profile = grey_profile(1.0) if grey else P3
    # A PNG holds no palette with alpha of its own; in memory there is one.
    if mode == "PA":
        picture = picture.convert("PA")
        picture.info["icc_profile"] = profile
        found = np.asarray(load_image(picture).rgb)
    else:
        found = read(tmp_path, saved(picture, "PNG", icc_profile=profile))
    expected = by_littlecms(
        (original if mode == "I;16" else picture.convert("L" if grey else "RGB")), profile
    )
    if mode in ("RGBA", "LA"):
        over = Image.fromarray(expected.astype(np.uint8)).convert("RGBA")
        over.putalpha(200)
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", over.size, "white"), over))[..., :3]
    assert np.abs(found.astype(int) - expected).max() <= 1
    by_red_green_blue = saved(picture.convert("L"), "PNG", icc_profile=P3)
    assert np.abs(read(tmp_path, by_red_green_blue) - np.asarray(picture.convert("L"))[..., None]).max() <= 1


def test_cmyk_is_converted_by_its_profile(tmp_path: Path) -> None:
    inks = photograph().convert("CMYK")
    content = saved(inks, "JPEG", quality=100, subsampling=0, icc_profile=cmyk_profile())
    stored = Image.open(io.BytesIO(content))
    expected = by_littlecms(stored, cmyk_profile())
    assert np.abs(read(tmp_path, content) - expected).max() <= 1
    assert np.abs(np.asarray(stored.convert("RGB")).astype(int) - expected).mean() > 8


@pytest.mark.parametrize(
    ("profile", "kind", "said"),
    [
        (b"not a profile at all" * 20, "PNG", "broken"),
        (b"not a profile at all" * 20, "JPEG", "broken"),
        (P3[:200], "WEBP", "broken"),
        (cmyk_profile(), "PNG", "for CMYK, its pixels are RGB"),
        (grey_profile(2.2), "JPEG", "for GRAY, its pixels are RGB"),
    ],
)
def test_a_profile_that_cannot_be_used_is_said(tmp_path: Path, profile: bytes, kind: str, said: str) -> None:
    path = written(tmp_path, saved(photograph(), kind, icc_profile=profile, lossless=True))
    with pytest.warns(PictureWarning, match=said) as warned:
        found = load_image(path).rgb
    assert len(warned) == 1
    assert np.abs(np.asarray(found).astype(int) - np.asarray(photograph())).mean() < 8


def test_a_profile_with_a_missing_piece_is_said(tmp_path: Path) -> None:
    content = bytearray(saved(photograph(), "JPEG", icc_profile=P3))
    content[content.index(b"ICC_PROFILE\0") + 13] = 2  # one of two
    with pytest.warns(PictureWarning, match="broken"):
        load_image(written(tmp_path, bytes(content)))


def png_with(*chunks: bytes, colour: tuple[int, int, int] = RED_P3) -> bytes:
    rows = zlib.compress(b"\0" + bytes(colour))
    return png_header(1, 1) + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


P3_POINTS = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
CHRM = chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in P3_POINTS)))
CICP = chunk(b"cICP", bytes([12, 13, 0, 1]))
ICCP = chunk(b"iCCP", b"x\0\0" + zlib.compress(ADOBE_RGB))


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((CICP,), RED),
        ((chunk(b"cICP", bytes([1, 13, 0, 1])),), RED_P3),
        ((CICP, ICCP), RED),  # code points go before a profile,
        (
            (ICCP, chunk(b"sRGB", b"\0")),
            tuple(by_littlecms(Image.new("RGB", (1, 1), RED_P3), ADOBE_RGB)[0, 0]),
        ),
        ((chunk(b"sRGB", b"\0"), gama(1.0), CHRM), RED_P3),  # and sRGB before gamma
        ((gama(0.45455),), RED_P3),
        ((gama(0.45455), CHRM), RED),
        ((gama(1.0),), (234, 128, 124)),
        ((CICP, chunk(b"cICP", bytes([1, 13, 0, 1]))), RED),  # what is said twice is said first
        ((chunk(b"PLTE", bytes(3)), gama(1.0), ICCP), RED_P3),  # and after the palette not at all
    ],
)
def test_colour_chunks_of_a_png(tmp_path: Path, chunks: tuple[bytes, ...], expected: Any) -> None:
    assert np.abs(read(tmp_path, png_with(*chunks))[0, 0] - expected).max() <= 2


def test_colours_behind_the_pixels_are_passed_over(tmp_path: Path) -> None:
    whole = png_with()
    late = whole[:-12] + gama(1.0) + ICCP + whole[-12:]
    assert tuple(read(tmp_path, late)[0, 0]) == RED_P3
    assert tuple(read(tmp_path, png_with(gama(1.0)))[0, 0]) != RED_P3


@pytest.mark.parametrize(
    ("codes", "said"),
    [((9, 16), r"HDR \(PQ\)"), ((9, 18), r"HDR \(HLG\)"), ((40, 13), "40 and 13, are not known")],
)
def test_colours_that_are_not_converted_are_called_by_their_name(
    tmp_path: Path, codes: tuple[int, int], said: str
) -> None:
    path = written(tmp_path, png_with(chunk(b"cICP", bytes([*codes, 0, 1]))))
    with pytest.warns(PictureWarning, match=said):
        assert load_image(path).rgb.getpixel((0, 0)) == RED_P3


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(0.00001),),
        (chunk(b"cHRM", bytes(32)),),
        (chunk(b"iCCP", b"x\0\0" + b"no zlib"),),
        (chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(20 << 20))),),
        (ICCP[:-1] + b"!",),
    ],
)
def test_colour_chunks_without_sense_are_said(tmp_path: Path, chunks: tuple[bytes, ...]) -> None:
    with pytest.warns(PictureWarning, match="broken"):
        assert load_image(written(tmp_path, png_with(*chunks))).rgb.getpixel((0, 0)) == RED_P3


def test_code_points_of_an_avif(tmp_path: Path) -> None:
    flat = Image.new("RGB", (16, 16), RED_P3)
    content = saved(flat, "AVIF", quality=100, subsampling="4:4:4")
    place = content.index(b"colrnclx") + 8
    marked = content[:place] + bytes([0, 12]) + content[place + 2 :]
    assert np.abs(read(tmp_path, marked)[8, 8] - RED).max() <= 3
    assert np.abs(read(tmp_path, content)[8, 8] - RED_P3).max() <= 3


def test_adobe_rgb_marked_in_exif_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    content = saved(Image.new("RGB", (16, 16), (144, 255, 60)), "JPEG", quality=100, exif=exif)
    assert np.abs(read(tmp_path, content)[8, 8] - (0, 255, 0)).max() <= 6


def test_a_mask_is_no_colour(tmp_path: Path) -> None:
    levels = Image.new("L", (4, 4), 100)
    path = written(tmp_path, saved(levels, "PNG", icc_profile=grey_profile(1.0)))
    assert load_mask(path).getpixel((0, 0)) == 100
    assert load_image(path).rgb.getpixel((0, 0))[0] > 150


def test_16_bit_grey_keeps_its_transparency(tmp_path: Path) -> None:
    content = grey16_png(np.array([[1000, 65535]], np.uint16), transparent=1000)
    content = content.replace(content[8:33], content[8:33] + gama(1.0))
    loaded = load_image(written(tmp_path, content))
    assert loaded.alpha is not None
    assert np.asarray(loaded.alpha).tolist() == [[0, 255]]
