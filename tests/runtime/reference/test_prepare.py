"""The prepared reference: which subject is found and how, where it stands in the frame, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.images import LoadedImage
from dreamcache.runtime.reference.prepare import MIN_FILL, PreparedReference, prepare_reference
from dreamcache.runtime.reference.segmentation import connected, grabcut, plain_background

SIZE = 64
BOX = (30, 50, 90, 80)  # left, top, right, bottom of the drawn subject


def scene(background: str = "white", size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A red block with a blue corner on one colour."""
    image = Image.new("RGB", size, background)
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((BOX[0], BOX[1], BOX[2] - 1, BOX[3] - 1), fill="red")
    drawing.rectangle((BOX[0], BOX[1], BOX[0] + 14, BOX[1] + 14), fill="blue")
    return image


def busy(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """The same block before a background of many colours."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.paste(scene().crop(BOX), BOX[:2])
    return image


def block_mask(size: tuple[int, int] = (160, 120), box: tuple[int, int, int, int] = BOX) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


def masked_box(reference: PreparedReference) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(reference.mask >= reference.mask.max() / 2)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def assert_block_framed(reference: PreparedReference) -> None:
    """The block is centred, keeps its 2 : 1 shape, fills the frame, and stands on white."""
    left, top, right, bottom = masked_box(reference)
    assert reference.image.size == (SIZE, SIZE)
    assert reference.image.mode == "RGB"
    assert reference.mask.dtype == np.float32
    assert MIN_FILL <= (right - left) / SIZE <= 0.9
    assert (right - left) / (bottom - top) == pytest.approx(2, rel=0.1)
    assert (left + right) / 2 == pytest.approx(SIZE / 2, abs=1.5)
    assert (top + bottom) / 2 == pytest.approx(SIZE / 2, abs=1.5)
    pixels = np.asarray(reference.image).astype(int)
    assert np.abs(pixels[reference.mask < 0.01] - 255).max() <= 3
    assert pixels[SIZE // 2, right - 6].tolist() == pytest.approx([255, 0, 0], abs=12)
    assert pixels[top + 4, left + 4].tolist() == pytest.approx([0, 0, 255], abs=12)
    assert reference.fill == (right - left) / SIZE


def test_a_given_mask_cuts_the_subject_out() -> None:
    reference = prepare_reference(busy(), block_mask(), size=SIZE)
    assert_block_framed(reference)
    assert "given mask" in reference.how


def test_mask_and_picture_may_be_files(tmp_path: Path) -> None:
    busy().save(tmp_path / "picture.png")
    block_mask().save(tmp_path / "mask.png")
    reference = prepare_reference(tmp_path / "picture.png", str(tmp_path / "mask.png"), size=SIZE)
    assert_block_framed(reference)
    in_memory = prepare_reference(busy(), block_mask(), size=SIZE)
    np.testing.assert_array_equal(np.asarray(reference.image), np.asarray(in_memory.image))


def test_another_mask_gives_another_reference() -> None:
    here = prepare_reference(busy(), block_mask(), size=SIZE)
    elsewhere = prepare_reference(busy(), block_mask(box=(90, 10, 150, 40)), size=SIZE)
    assert np.abs(np.asarray(here.image).astype(int) - np.asarray(elsewhere.image)).mean() > 20


def test_transparency_cuts_the_subject_out() -> None:
    image = busy()
    image.putalpha(block_mask())
    reference = prepare_reference(image, size=SIZE)
    assert_block_framed(reference)
    assert "transparency" in reference.how


def test_a_given_mask_goes_before_transparency() -> None:
    image = busy()
    image.putalpha(block_mask(box=(90, 10, 150, 40)))
    reference = prepare_reference(image, block_mask(), size=SIZE)
    assert "given mask" in reference.how


@pytest.mark.parametrize(
    ("background", "said"),
    [("white", "already on plain white"), ("#fcfcfb", "already on plain white"), ("#3c7850", "#3c7850")],
)
def test_a_plain_background_is_taken_away(background: str, said: str) -> None:
    reference = prepare_reference(scene(background), size=SIZE)
    assert_block_framed(reference)
    assert said in reference.how


def test_a_plain_background_with_camera_noise_and_specks_is_taken_away() -> None:
    pixels = np.asarray(scene("#b4c8d2")).astype(int)
    pixels += np.random.default_rng(1).integers(-6, 7, pixels.shape)
    pixels[5, 5] = pixels[110, 150] = 0
    reference = prepare_reference(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), size=SIZE)
    assert_block_framed(reference)


@pytest.mark.parametrize(("background", "inside"), [("#3c7850", 0), ("white", 255)])
def test_a_coloured_background_is_removed_inside_the_subject_too(background: str, inside: int) -> None:
    """The hole of a ring; on white, where nothing is to be seen of it, an eye stays an eye."""
    image = scene(background)
    image.paste(background, (55, 60, 65, 70))
    image.paste(background, (80, 60, 82, 62))  # too small for a hole
    found = plain_background(image)
    assert found is not None
    assert found.foreground.getpixel((60, 65)) == inside
    assert found.foreground.getpixel((81, 61)) == 255
    assert found.foreground.getpixel((10, 10)) == 0
    assert ("inside the subject too" in prepare_reference(image, size=SIZE).how) == (inside == 0)


def test_a_shaded_background_is_not_plain() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 160, dtype=np.uint8)[None, :, None], (120, 160, 3))
    assert plain_background(Image.fromarray(ramp.copy())) is None
    assert plain_background(busy()) is None


def coffee() -> Image.Image:
    return Image.fromarray(skimage.data.coffee())


def cat() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea())


def share(mask: Image.Image, box: tuple[int, int, int, int]) -> float:
    return float(np.asarray(mask.crop(box)).mean() / 255)


def test_grabcut_finds_the_coffee_cup() -> None:
    pytest.importorskip("cv2")
    cut = grabcut(coffee())
    assert cut is not None
    found = cut.foreground
    assert found.size == (600, 400)
    assert share(found, (220, 80, 340, 180)) > 0.95  # inside the cup
    assert share(found, (0, 0, 100, 100)) < 0.05  # the dark corner
    assert share(found, (500, 0, 600, 400)) < 0.05  # the table
    reference = prepare_reference(coffee(), size=128)
    assert "GrabCut" in reference.how
    assert reference.fill >= MIN_FILL
    assert 0.3 < reference.mask.mean() < 0.6


def test_grabcut_finds_the_cat() -> None:
    pytest.importorskip("cv2")
    cut = grabcut(cat())
    assert cut is not None
    found = cut.foreground
    assert share(found, (120, 80, 260, 220)) > 0.95  # the face
    assert share(found, (400, 100, 451, 300)) < 0.05  # the blurred room
    reference = prepare_reference(cat(), size=128)
    assert reference.fill >= MIN_FILL
    again = prepare_reference(cat(), size=128)
    np.testing.assert_array_equal(reference.mask, again.mask)


def test_grabcut_gives_up_where_nothing_stands_out() -> None:
    pytest.importorskip("cv2")
    assert grabcut(Image.new("RGB", (64, 64), "grey")) is None
    assert grabcut(busy((12, 12))) is None


def test_without_opencv_the_picture_stays_and_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    reference = prepare_reference(coffee(), size=SIZE)
    assert "background kept" in reference.how
    assert "pip install 'dreamcache[segment]'" in reference.how
    left, top, right, bottom = masked_box(reference)
    assert (left, right) == (0, SIZE)
    assert (bottom - top) / SIZE == pytest.approx(400 / 600, abs=0.03)
    whole = np.asarray(coffee().resize((SIZE, bottom - top), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(reference.image)[top:bottom].astype(int) - whole).mean() < 4
    # The other ways need no OpenCV.
    assert_block_framed(prepare_reference(busy(), block_mask(), size=SIZE))
    assert_block_framed(prepare_reference(scene("#3c7850"), size=SIZE))


def test_masks_of_another_size_are_refused() -> None:
    with pytest.raises(ImageError, match="160 x 120 is expected, received 120 x 160"):
        prepare_reference(busy(), block_mask((120, 160)), size=SIZE)


def test_masks_without_a_subject_or_a_background_are_refused() -> None:
    with pytest.raises(ImageError, match="received 0 x 0 px"):
        prepare_reference(busy(), Image.new("L", (160, 120), 0), size=SIZE)
    with pytest.raises(ImageError, match="received 2 x 3 px"):
        prepare_reference(busy(), block_mask(box=(10, 10, 12, 13)), size=SIZE)
    with pytest.raises(ImageError, match="white everywhere"):
        prepare_reference(busy(), Image.new("L", (160, 120), 255), size=SIZE)


def test_pictures_without_a_subject_are_refused() -> None:
    with pytest.raises(ImageError, match="plain background"):
        prepare_reference(Image.new("RGB", (160, 120), "#808080"), size=SIZE)
    with pytest.raises(ImageError, match="transparency"):
        prepare_reference(Image.new("RGBA", (160, 120), (255, 0, 0, 0)), size=SIZE)


@pytest.mark.parametrize("size", [(5_000, 4), (3, 5_000), (1, 1), (2, 1)])
def test_extreme_shapes_are_framed(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    noise = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    try:
        reference = prepare_reference(LoadedImage(Image.fromarray(noise)), size=SIZE)
    except ImageError as refusal:
        assert max(size) < 4, refusal  # noqa: PT017
        return
    assert reference.image.size == (SIZE, SIZE)
    assert reference.fill == 1


@given(
    left=st.integers(0, 150),
    top=st.integers(0, 110),
    width=st.integers(1, 160),
    height=st.integers(1, 120),
    size=st.sampled_from([32, 64, 96]),
)
@settings(max_examples=150, deadline=None)
def test_any_subject_fills_the_frame_and_is_centred(
    left: int, top: int, width: int, height: int, size: int
) -> None:
    right, bottom = min(left + width, 160), min(top + height, 120)
    if max(right - left, bottom - top) < 4 or (right - left, bottom - top) == (160, 120):
        return
    reference = prepare_reference(LoadedImage(busy()), block_mask(box=(left, top, right, bottom)), size=size)
    assert reference.mask.shape == (size, size)
    assert MIN_FILL <= reference.fill <= 0.9
    box = masked_box(reference)
    assert (box[0] + box[2]) / 2 == pytest.approx(size / 2, abs=2)
    assert (box[1] + box[3]) / 2 == pytest.approx(size / 2, abs=2)


def flooded_by_hand(seeds: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    reached = np.zeros_like(allowed)
    waiting = list(zip(*np.nonzero(seeds & allowed), strict=True))
    while waiting:
        y, x = waiting.pop()
        if 0 <= y < allowed.shape[0] and 0 <= x < allowed.shape[1] and allowed[y, x] and not reached[y, x]:
            reached[y, x] = True
            waiting += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached


@given(seed=st.integers(0, 10_000), height=st.integers(1, 12), width=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_connected_is_a_flood(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    allowed, seeds = rng.random((height, width)) < 0.6, rng.random((height, width)) < 0.1
    np.testing.assert_array_equal(connected(seeds, allowed), flooded_by_hand(seeds, allowed))
