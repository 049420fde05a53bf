"""What a picture may be given as, which files are read, and what of them is passed over."""

from __future__ import annotations

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from picture_files import chunk, photograph, saved, written
from PIL import Image, ImageOps

from dreamcache.runtime.errors import ImageError, SettingsError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.images import load_image, load_mask

PHOTOGRAPH = np.asarray(photograph())


def test_every_form_is_the_same_picture(tmp_path: Path) -> None:
    content = saved(photograph(), "PNG")
    path = written(tmp_path, content)
    with path.open("rb") as file:
        file.read(100)
        forms: list[Any] = [path, str(path), content, bytearray(content), memoryview(content), file]
        forms += [io.BytesIO(content), photograph(), PHOTOGRAPH, PHOTOGRAPH / 255]
        forms += [PHOTOGRAPH.astype(np.float32) / 255, PHOTOGRAPH.astype(np.uint16) * 257]
        forms += [np.dstack([PHOTOGRAPH, np.full((32, 48), 255, np.uint8)]), PHOTOGRAPH[::-1][::-1]]
        for form in forms:
            np.testing.assert_array_equal(np.asarray(load_image(form).rgb), PHOTOGRAPH)
        assert not file.closed


def test_both_orders_of_bytes_are_16_bits() -> None:
    levels = np.arange(0, 65536, 257, np.uint16).reshape(16, 16)
    for order in ("<u2", ">u2"):
        found = load_image(levels.astype(order)).rgb.getchannel("R")
        assert np.array_equal(np.asarray(found), np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_a_picture_that_pillow_has_only_opened_is_turned_once(kind: str, orientation: int) -> None:
    """It turns a TIFF by itself, when it decodes it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    content = io.BytesIO()
    stored.save(content, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(content)))
    assert np.array_equal(np.asarray(load_image(Image.open(content)).rgb), expected)
    decoded = Image.open(content)
    decoded.load()
    assert np.array_equal(np.asarray(load_image(decoded).rgb), expected)
    assert (orientation == 1) == np.array_equal(np.asarray(stored), expected)


@pytest.mark.parametrize("transparent", [(), None, "x", (1, 2)])
def test_transparency_without_sense_is_one_line(transparent: object) -> None:
    picture = Image.new("RGB", (4, 4))
    picture.info["transparency"] = transparent
    with pytest.raises(ImageError, match="picture in memory: a whole picture is expected") as caught:
        load_image(picture)
    assert "\n" not in str(caught.value)


def test_a_stream_in_which_one_cannot_move() -> None:
    class Stream(io.RawIOBase):
        def read(self, _: int = -1) -> bytes:  # type: ignore[override]
            return saved(photograph(), "PNG")

    np.testing.assert_array_equal(np.asarray(load_image(Stream()).rgb), PHOTOGRAPH)


def test_grey_arrays_and_arrays_with_transparency() -> None:
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    for form in (grey, grey[..., None], grey / 255, np.dstack([grey, np.full_like(grey, 255)])):
        np.testing.assert_array_equal(np.asarray(load_image(form).rgb), np.dstack([grey] * 3))
    half = load_image(np.broadcast_to(np.array([200, 0, 0, 160], np.uint8), (4, 4, 4)))
    assert half.rgb.getpixel((0, 0)) == (220, 95, 95)
    assert np.asarray(load_mask(grey > 150)).tolist() == [[0, 0], [255, 255]]
    assert np.asarray(load_mask(np.array([[0.0, 1.0]]))).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (PHOTOGRAPH.astype(np.float32), "floats from 0 to 1 is expected, received 0 to 24"),
        (np.full((4, 4), np.nan), "floats from 0 to 1"),
        (np.full((4, 4), -0.1), "floats from 0 to 1"),
        (PHOTOGRAPH.astype(np.int64), "received int64"),
        (PHOTOGRAPH.transpose(2, 0, 1), r"received \[3, 32, 48\]"),
        (PHOTOGRAPH[None], r"received \[1, 32, 48, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"received \[0, 4, 3\]"),
        (io.StringIO("a picture"), "received text; open it with 'rb'"),
        (b"no picture", "received something else"),
        (b"", "an empty file"),
        (None, "received NoneType"),
        ([[0, 1]], "received list"),
    ],
)
def test_other_forms_are_refused(form: Any, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        load_image(form)


class _Pipe:
    """A source that gives what is there, as pipes and sockets do, and in which one cannot move."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    def read(self, _: int = -1) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def test_a_source_in_pieces_is_read_to_its_end() -> None:
    content = saved(photograph(), "PNG")
    pieces = _Pipe(content[:10], content[10:50], content[50:])
    np.testing.assert_array_equal(np.asarray(load_image(pieces).rgb), PHOTOGRAPH)
    np.testing.assert_array_equal(np.asarray(load_image(memoryview(content)).rgb), PHOTOGRAPH)
    doubled = bytes(byte for byte in content for _ in range(2))
    np.testing.assert_array_equal(np.asarray(load_image(memoryview(doubled)[::2]).rgb), PHOTOGRAPH)


def test_floats_that_resampling_left_just_outside_are_taken() -> None:
    nearly = np.array([[-1e-7, 1.0000001]], np.float64)
    assert np.asarray(load_image(nearly).rgb)[0, :, 0].tolist() == [0, 255]


def test_a_view_of_any_size_costs_nothing() -> None:
    """The shape alone would be 30 GB."""
    with pytest.raises(
        ImageError, match=r"at most 178 megapixels is expected, received \[100000, 100000, 3\]"
    ):
        load_image(np.broadcast_to(np.uint8(7), (100_000, 100_000, 3)))


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"a pixel or more is expected, received {size[0]} x {size[1]}"):
        load_image(Image.new("RGB", size))


def test_whole_numbers_in_memory_are_8_bit_where_they_fit() -> None:
    """As Pillow's own `convert` writes mode I and reads it."""
    grey = Image.fromarray(PHOTOGRAPH).convert("L")
    np.testing.assert_array_equal(np.asarray(load_image(grey.convert("I")).rgb)[..., 0], np.asarray(grey))
    in_a_tiff = Image.open(io.BytesIO(saved(grey.convert("I"), "TIFF")))
    np.testing.assert_array_equal(np.asarray(load_image(in_a_tiff).rgb)[..., 0], np.asarray(grey))
    deep = Image.fromarray(np.asarray(grey).astype(np.int32) * 257)
    assert deep.mode == "I"
    np.testing.assert_array_equal(np.asarray(load_image(deep).rgb)[..., 0], np.asarray(grey))


def test_the_pipeline_takes_every_form(pristine: Path, toy: Path) -> None:
    pipeline = Pipeline.load(pristine)
    mask = np.zeros((40, 40), bool)
    mask[8:33, 8:33] = True
    by_path = pipeline.cache(toy, mask)
    for form in (toy.read_bytes(), np.asarray(Image.open(toy))):
        other = pipeline.cache(form, Image.fromarray(mask))
        for name, tensor in by_path.tensors.items():
            np.testing.assert_array_equal(tensor, other.tensors[name])
    with pytest.raises(ImageError, match=r"at most 0\.001 megapixels"):
        pipeline.cache(toy, max_pixels=1000)


def test_the_limit_of_pixels_can_be_moved() -> None:
    large = saved(Image.new("1", (5001, 5000)), "PNG")
    with pytest.raises(ImageError, match=r"at most 25 megapixels .* 5001 x 5000.*--max-pixels"):
        load_image(large)
    assert load_image(large, max_pixels=25_005_000).rgb.size == (5001, 5000)
    with pytest.raises(ImageError, match=r"0\.001535 megapixels"):
        load_mask(saved(photograph(), "WEBP"), max_pixels=1535)
    for wrong in (0, -1, 2**40, 1.5, True, "25M"):
        with pytest.raises(SettingsError, match="max_pixels: a whole number from 1 to 178000000"):
            load_image(PHOTOGRAPH, max_pixels=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_photographs_of_telephones_are_read(kind: str) -> None:
    original = photograph()
    if kind == "AVIF":
        content = saved(original, kind, quality=100, subsampling="4:4:4")
    else:
        heif = pytest.importorskip("pillow_heif")
        buffer = io.BytesIO()
        heif.from_pillow(original).save(buffer, quality=100, chroma=444)
        content = buffer.getvalue()
    for whole in (content, content + b"appended"):
        found = np.asarray(load_image(whole).rgb).astype(int)
        assert np.abs(found - PHOTOGRAPH).max() <= 8
    for length in (*range(0, len(content) - 20, 97), *range(len(content) - 20, len(content))):
        with pytest.raises(ImageError) as refusal:
            load_image(content[:length])
        assert "\n" not in str(refusal.value)
    with pytest.raises(ImageError, match="received 48 x 32"):
        load_image(content, max_pixels=1000)


def test_a_heic_file_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    content = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + struct.pack(">I4s", 8, b"meta")
    with pytest.raises(ImageError, match=r"pip install 'dreamcache\[heif\]'"):
        load_image(content + struct.pack(">I4s", 8, b"mdat"))


def ancillary(*chunks: bytes) -> bytes:
    content = saved(photograph(), "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"iTXt", b"XML\0\1\0\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2 << 20))),
        chunk(b"tEXt", b"a\0" + bytes(2 << 20)),
        b"".join(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000))) for _ in range(80)),
        chunk(b"teXt", b"x")[:-1] + b"!",  # a wrong checksum
        chunk(b"gAMA", struct.pack(">I", 45455))[:-1] + b"!",
        chunk(b"sRGB", b""),
        chunk(b"pHYs", b"short"),
    ],
)
def test_chunks_that_are_no_picture_are_passed_over(extra: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(np.asarray(load_image(ancillary(extra)).rgb), PHOTOGRAPH)


def test_chunks_that_are_the_picture_are_not() -> None:
    with pytest.raises(ImageError, match="broken"):
        load_image(ancillary(chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))[:-1] + b"!"))
    exif = Image.Exif()
    exif[0x0112] = 6
    as_text = exif.tobytes().removeprefix(b"Exif\0\0")
    profile = b"\nexif\n" + f"{len(as_text):8}\n".encode() + as_text.hex().encode() + b"\n"
    turned = ancillary(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)))
    assert load_image(turned).rgb.size == (32, 48)
