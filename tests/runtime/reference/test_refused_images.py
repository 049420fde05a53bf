"""Pictures that are refused: animations, cut, damaged, huge, of another format, missing."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import FORMATS, chunk, photograph, pixels, png_header, saved, written
from PIL import Image, ImageFile, _webp

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.decode import MAX_PIXELS
from dreamcache.runtime.reference.images import load_image


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


@pytest.mark.parametrize(("depth", "colour_type", "bits"), [(8, 2, 24), (1, 0, 1), (16, 4, 32), (4, 3, 4)])
@pytest.mark.parametrize("interlaced", [False, True])
def test_a_png_that_lacks_rows_is_refused(depth: int, colour_type: int, bits: int, interlaced: bool) -> None:
    """Its chunks are whole, and Pillow takes what is missing as black."""
    passes = (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    )
    rows = [
        bytes(1 + -(-len(range(left, 13, across)) * bits // 8))
        for left, top, across, down in (passes if interlaced else ((0, 0, 1, 1),))
        for _ in range(top, 11, down)
    ]
    header = struct.pack(">IIBBBBB", 13, 11, depth, colour_type, 0, 0, interlaced)
    begin = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    begin += chunk(b"PLTE", bytes(48)) if colour_type == 3 else b""

    def png(data: bytes) -> bytes:
        packed = zlib.compress(data)
        pieces = (packed[:7], packed[7:])
        return begin + b"".join(chunk(b"IDAT", piece) for piece in pieces) + chunk(b"IEND", b"")

    whole = b"".join(rows)
    assert load_image(png(whole)).rgb.size == (13, 11)
    assert load_image(png(whole + b"more")).rgb.size == (13, 11)
    with pytest.raises(ImageError, match=r"broken one \(1 bytes of its rows are missing\)"):
        load_image(png(whole[:-1]))
    with pytest.raises(ImageError, match="bytes of its rows are missing"):
        load_image(png(b"".join(rows[: len(rows) // 2])))


def test_no_address_of_an_object_is_said(tmp_path: Path) -> None:
    for content in (png_header(4, 4, depth=3) + chunk(b"IEND", b""), b"\xff\xd8\xff" + bytes(40)):
        with pytest.raises(ImageError, match="no picture header that can be read") as refusal:
            load_image(written(tmp_path, content))
        assert "0x" not in str(refusal.value)


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
    with pytest.raises(ImageError, match="PNG, JPEG, WebP, AVIF or HEIC file is expected"):
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
