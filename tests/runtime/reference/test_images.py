"""Pictures that are read, and what they look like afterwards."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import FORMATS, chunk, grey16_png, photograph, pixels, png_header, saved, written
from PIL import Image

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.images import load_image, load_mask
from dreamcache.runtime.reference.prepare import prepare_reference


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [("PNG", {}, 0), ("WEBP", {"lossless": True}, 0), ("JPEG", {"quality": 95, "subsampling": 0}, 12)],
)
def test_reads_each_format_whatever_its_ending(
    tmp_path: Path, kind: str, options: dict[str, Any], tolerance: int
) -> None:
    original = photograph()
    path = written(tmp_path, saved(original, kind, **options), "picture.txt")
    assert np.abs(pixels(path) - np.asarray(original).astype(np.int16)).max() <= tolerance
    assert load_image(path).alpha is None
    assert load_image(str(path)).name == str(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [*FORMATS, "AVIF", "HEIF"])
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int, kind: str) -> None:
    upright = np.zeros((32, 48, 3), dtype=np.uint8)
    upright[:16, :24] = (255, 0, 0)
    upright[:16, 24:] = (0, 255, 0)
    upright[16:, :24] = (0, 0, 255)
    # The inverse of what the tag asks a reader to do.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    if kind == "HEIF":  # its boxes turn the picture, and its EXIF says the same once more
        pytest.importorskip("pillow_heif").register_heif_opener()
        options = {"quality": -1, "chroma": 444}
    elif kind == "AVIF":
        options = {"quality": 100, "subsampling": "4:4:4"}
    image = Image.fromarray(np.ascontiguousarray(stored))
    read = pixels(written(tmp_path, saved(image, kind, exif=exif.tobytes(), **options)))
    assert read.shape == upright.shape
    assert np.abs(read - upright.astype(np.int16)).mean() < 3


def test_broken_exif_does_not_matter(tmp_path: Path) -> None:
    content = saved(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(written(tmp_path, content)).shape == (32, 48, 3)


def test_alpha_is_composited_on_white_and_kept(tmp_path: Path) -> None:
    rgba = np.zeros((4, 6, 4), dtype=np.uint8)
    rgba[..., 0] = 200
    rgba[:, 2:4, 3] = 128
    rgba[:, 4:, 3] = 255
    loaded = load_image(written(tmp_path, saved(Image.fromarray(rgba), "PNG")))
    rgb = np.asarray(loaded.rgb).astype(int)
    assert loaded.alpha is not None
    np.testing.assert_array_equal(np.asarray(loaded.alpha), rgba[..., 3])
    np.testing.assert_array_equal(rgb[:, :2], np.full((4, 2, 3), 255))
    np.testing.assert_allclose(rgb[:, 2:4], np.broadcast_to([227, 127, 127], (4, 2, 3)), atol=1)
    np.testing.assert_array_equal(rgb[:, 4:], np.broadcast_to([200, 0, 0], (4, 2, 3)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_composited_once(mode: str) -> None:
    """In the picture and in the prepared reference; PIL's alpha_composite is the judge."""
    picture = Image.new("RGBA", (12, 12), (200, 0, 0, 160))
    picture.paste((0, 0, 0, 0), (0, 0, 12, 3))
    if mode != "RGBA":
        picture = picture.convert("LA" if mode == "LA" else "P")
    if mode == "PA":
        picture = picture.convert("PA")
    rgba = picture.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", (12, 12), "white"), rgba).convert("RGB")
    for source in (picture, *([] if mode == "PA" else [saved(picture, "PNG")])):
        loaded = load_image(source)
        np.testing.assert_array_equal(np.asarray(loaded.rgb), np.asarray(expected))
        np.testing.assert_array_equal(np.asarray(loaded.alpha), np.asarray(rgba.getchannel("A")))
        middle = prepare_reference(source, size=32).image.getpixel((16, 16))
        assert middle == expected.getpixel((6, 8))
    assert mode == "LA" or middle == (220, 95, 95)


def test_a_turned_picture_turns_its_transparency() -> None:
    picture = Image.new("RGBA", (8, 4), (10, 20, 30, 255))
    picture.putpixel((0, 0), (10, 20, 30, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(saved(picture, "PNG", exif=exif))
    assert loaded.alpha is not None
    assert loaded.rgb.size == loaded.alpha.size == (4, 8)
    assert loaded.alpha.getpixel((3, 0)) == 0
    assert np.count_nonzero(np.asarray(loaded.alpha)) == 31


@pytest.mark.parametrize(
    ("depth", "colour_type", "row", "transparent"),
    [
        (1, 0, bytes([0b01110000]), struct.pack(">H", 0)),
        (2, 0, bytes([0b01101100]), struct.pack(">H", 1)),
        (4, 0, bytes([0x3F, 0xFF]), struct.pack(">H", 3)),
        (
            16,
            2,
            struct.pack(">12H", 4660, 22136, 39612, *[65535] * 9),
            struct.pack(">3H", 4660, 22136, 39612),
        ),
    ],
)
def test_one_transparent_value_at_every_depth(
    depth: int, colour_type: int, row: bytes, transparent: bytes
) -> None:
    content = png_header(4, 1, depth, colour_type) + chunk(b"tRNS", transparent)
    loaded = load_image(content + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b""))
    assert loaded.alpha is not None
    assert np.asarray(loaded.alpha)[0].tolist() == [0, 255, 255, 255]


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_transparent_colour_of_16_bits_is_no_neighbour(interlaced: bool) -> None:
    """Pillow has both at 8 bits, where they are one; every filter of a row is met."""
    levels = np.random.default_rng(0).integers(30_000, 30_004, (23, 17, 3), np.uint16)
    colour = (30_001, 30_002, 30_003)
    loaded = load_image(_rgb16_png(levels, colour, interlaced))
    assert loaded.alpha is not None
    expected = np.where((levels == colour).all(-1), 0, 255)
    np.testing.assert_array_equal(np.asarray(loaded.alpha), expected)
    assert 0 < (expected == 0).sum() < 23
    visible = np.asarray(loaded.rgb)[expected > 0]
    assert (visible == 30_000 >> 8).all()
    # from Pillow itself, which has lost the difference, everything of that colour goes
    by_pillow = load_image(Image.open(io.BytesIO(_rgb16_png(levels, colour, interlaced))))
    assert by_pillow.alpha is not None
    assert not np.asarray(by_pillow.alpha).any()


def _rgb16_png(levels: NDArray[np.uint16], transparent: tuple[int, ...], interlaced: bool) -> bytes:
    """One filter after the other in its rows."""
    every = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = every if interlaced else ((0, 0, 1, 1),)
    rows = b""
    for top, left, down, across in passes:
        part = levels[top::down, left::across]
        stored = part.astype(">u2").view(np.uint8).reshape(len(part), -1, 6).astype(int)
        before = np.pad(stored, ((1, 0), (1, 0), (0, 0)))
        one, up, corner = before[1:, :-1], before[:-1, 1:], before[:-1, :-1]
        guess = one + up - corner
        near = np.stack([np.abs(guess - found) for found in (one, up, corner)]).argmin(0)
        guesses = (0 * one, one, up, (one + up) // 2, np.choose(near, (one, up, corner)))
        for y in range(len(part) if part.size else 0):
            rows += bytes([y % 5]) + ((stored - guesses[y % 5])[y] % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", *levels.shape[1::-1], 16, 2, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"tRNS", struct.pack(">3H", *transparent)), (b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks) + chunk(b"IEND", b"")


def test_an_opaque_alpha_is_no_alpha(tmp_path: Path) -> None:
    assert load_image(written(tmp_path, saved(photograph().convert("RGBA"), "PNG"))).alpha is None


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 1000, 32896, 65535]], dtype=np.uint16)
    read = pixels(written(tmp_path, grey16_png(levels)))
    np.testing.assert_array_equal(read[0, :, 0], [0, 1, 4, 128, 255])
    clipping = np.clip(levels, 0, 255)[0]
    assert np.abs(read[0, :, 0] - clipping).max() > 100


def test_16_bit_transparent_level_is_alpha(tmp_path: Path) -> None:
    levels = np.array([[1000, 65535, 1000]], dtype=np.uint16)
    loaded = load_image(written(tmp_path, grey16_png(levels, transparent=1000)))
    assert loaded.alpha is not None
    assert np.asarray(loaded.alpha).tolist() == [[0, 255, 0]]


def test_16_bit_colour_is_scaled(tmp_path: Path) -> None:
    row = np.array([0, 32896, 65535], dtype=">u2").tobytes()
    content = png_header(1, 1, depth=16) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    assert pixels(written(tmp_path, content)).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_other_png_modes_are_read(tmp_path: Path, mode: str) -> None:
    original = photograph().convert("L") if mode in ("1", "LA") else photograph()
    image = original.convert(mode)
    read = pixels(written(tmp_path, saved(image, "PNG")))
    np.testing.assert_array_equal(read, np.asarray(image.convert("RGB")))


def test_a_transparent_palette_entry_is_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((3, 1), 1)
    loaded = load_image(written(tmp_path, saved(image, "PNG", transparency=0)))
    assert loaded.alpha is not None
    assert np.count_nonzero(np.asarray(loaded.alpha)) == 1
    assert loaded.rgb.getpixel((0, 0)) == (255, 255, 255)
    assert loaded.rgb.getpixel((3, 1)) == (0, 0, 255)


def test_cmyk_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK")
    read = pixels(written(tmp_path, saved(image, "JPEG", quality=95)))
    assert np.abs(read.mean(axis=(0, 1)) - [250, 10, 10]).max() < 6
    grey = Image.new("L", (16, 16), 90)
    assert np.abs(pixels(written(tmp_path, saved(grey, "JPEG"))) - 90).max() <= 2


def test_further_frames_of_a_jpeg_are_ignored(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photograph().save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (48, 32), "red")])
    read = pixels(written(tmp_path, buffer.getvalue()))
    assert np.abs(read - np.asarray(photograph()).astype(np.int16)).mean() < 8


def test_masks_are_brightness_or_transparency(tmp_path: Path) -> None:
    grey = Image.new("L", (4, 4), 0)
    grey.paste(255, (0, 0, 2, 4))
    assert np.asarray(load_mask(written(tmp_path, saved(grey, "PNG"))))[0].tolist() == [255, 255, 0, 0]
    cut_out = Image.new("RGB", (4, 4), "black")
    cut_out.putalpha(grey)
    assert np.asarray(load_mask(written(tmp_path, saved(cut_out, "PNG"))))[0].tolist() == [255, 255, 0, 0]
    assert np.asarray(load_mask(grey))[0].tolist() == [255, 255, 0, 0]


def test_pictures_in_memory_are_brought_to_the_same_form() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(io.BytesIO(saved(photograph(), "PNG", exif=exif)))
    assert load_image(turned).rgb.size == (32, 48)
    with pytest.raises(ImageError, match="received LAB"):
        load_image(Image.new("LAB", (8, 8)))
