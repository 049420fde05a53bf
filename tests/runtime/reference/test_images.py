"""Pictures in: what is read, how it looks afterwards, and what is refused with one clear line."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, _webp

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.images import MAX_PIXELS, load_image, load_mask

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
@pytest.mark.parametrize("kind", FORMATS)
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
    options = {"subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(np.ascontiguousarray(stored))
    read = pixels(written(tmp_path, saved(image, kind, exif=exif, **options)))
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


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    with pytest.raises(ImageError, match="animation"):
        load_image(written(tmp_path, content))
    assert pixels(written(tmp_path, saved(frames[0], kind))).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True})],
)
def test_files_cut_anywhere_are_refused(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    content = saved(photograph(), kind, **options)
    # Everywhere in the last bytes, where a decoder may not notice, and at every ninth byte before.
    for length in (*range(0, len(content) - 40, 9), *range(len(content) - 40, len(content))):
        with pytest.raises(ImageError) as refusal:
            load_image(written(tmp_path, content[:length]))
        assert "\n" not in str(refusal.value)
    # Whole again, even with what some cameras append.
    assert pixels(written(tmp_path, content + b"appended")).shape == (32, 48, 3)


@pytest.mark.parametrize("kind", FORMATS)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_is_a_picture_or_an_image_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, place: int, value: int
) -> None:
    content = bytearray(saved(photograph(), kind))
    content[place % len(content)] = value
    path = written(tmp_path_factory.getbasetemp(), bytes(content), f"changed.{kind}")
    try:
        loaded = load_image(path)
    except ImageError as refusal:
        assert "\n" not in str(refusal)  # noqa: PT017
    else:
        assert loaded.rgb.width * loaded.rgb.height <= MAX_PIXELS


@given(content=st.binary(max_size=200), magic=st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
@settings(max_examples=60, deadline=None)
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, magic: bytes) -> None:
    path = written(tmp_path_factory.getbasetemp(), magic + content, "noise")
    with pytest.raises(ImageError):
        load_image(path)


def huge(kind: str, width: int, height: int) -> bytes:
    """A small file whose header promises width x height."""
    if kind == "PNG":
        return png_header(width, height) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    if kind == "JPEG":
        content = bytearray(saved(photograph(), "JPEG"))
        frame = content.index(b"\xff\xc0")
        content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
        return bytes(content)
    if kind == "WebP extended":
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + canvas
    elif kind == "WebP lossless":
        packed = (width - 1) | (height - 1) << 14
        body = b"WEBPVP8L" + struct.pack("<I", 6) + b"\x2f" + packed.to_bytes(4, "little") + b"\0"
    else:
        body = (
            b"WEBPVP8 " + struct.pack("<I", 10) + b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
        )
    body += bytes(32)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WebP extended", "WebP lossless", "WebP lossy"])
@pytest.mark.parametrize("size", [(5001, 5000), (16_000, 16_000), (60_000, 60_000)])
def test_huge_pictures_are_refused_from_their_header(
    tmp_path: Path, kind: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in ("WebP lossless", "WebP lossy") and size[0] > 16_383:
        pytest.skip("these WebP headers hold 14 bits a side")
    path = written(tmp_path, huge(kind, *size))

    def decode(*_: object) -> None:
        raise AssertionError("decoded before the size was checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr(_webp, "WebPAnimDecoder", decode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="at most 25 megapixels"):
            load_image(path)
        with pytest.raises(ImageError, match="decoded before"):  # the trap works
            load_image(written(tmp_path, saved(photograph(), kind.split()[0])))


def test_the_cap_itself_is_allowed() -> None:
    assert load_image(Image.new("1", (5000, 5000))).rgb.size == (5000, 5000)
    with pytest.raises(ImageError, match="5001 x 5000"):
        load_image(Image.new("1", (5001, 5000)))


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused_whatever_their_ending(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ImageError, match="PNG, JPEG or WebP file is expected"):
        load_image(written(tmp_path, saved(photograph(), kind), "picture.png"))


def test_absent_empty_and_irregular_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match="empty file"):
        load_image(written(tmp_path, b""))
    with pytest.raises(ImageError, match="not a regular file"):
        load_image(os.devnull)
    with pytest.raises(ImageError, match="expected"):
        load_image("a\0b.png")
    with pytest.raises(ValueError, match="no such file"):  # the builtin that it also is
        load_image(tmp_path / "absent.png")


def test_pillows_settings_stay_as_they_are(tmp_path: Path) -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    load_image(written(tmp_path, saved(photograph(), "PNG")))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before
