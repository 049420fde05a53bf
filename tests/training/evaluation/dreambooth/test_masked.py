"""Backgrounds taken away: which way, what is skipped, and that the background then no longer counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tiny_metrics import photographs

from dreamcache.runtime.errors import ImageError
from dreamcache.training.evaluation.dreambooth.masked import mask_of, whiten_background


def disc(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).ellipse((size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4), fill=255)
    return mask


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "00.png"
    photographs("tabby")[0].save(path)
    return path


@pytest.fixture
def mask(photograph: Path, tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    path = tmp_path / "masks" / "00.png"
    disc(Image.open(photograph).size).save(path)
    return path


def test_a_given_mask_is_used_pixel_for_pixel(photograph: Path, mask: Path) -> None:
    masked = whiten_background(photograph, mask)
    assert masked.how == "given mask"
    assert masked.picture is not None
    inside = np.asarray(Image.open(mask)) > 0
    ours, original = np.asarray(masked.picture), np.asarray(Image.open(photograph))
    assert (ours[~inside] == 255).all()
    assert np.array_equal(ours[inside], original[inside])
    assert not np.array_equal(ours, original)


def test_given_masks_are_found_by_name(photograph: Path, mask: Path, tmp_path: Path) -> None:
    assert mask_of(mask.parent, photograph) == mask
    assert mask_of(mask.parent, tmp_path / "01.jpg") is None
    assert mask_of(None, photograph) is None


def test_transparency_and_plain_backgrounds(photograph: Path, tmp_path: Path) -> None:
    picture = Image.open(photograph)
    cut = picture.copy()
    cut.putalpha(disc(picture.size))
    cut.save(tmp_path / "cut.png")
    grey = Image.new("RGB", picture.size, (90, 120, 90))
    grey.paste(picture, mask=disc(picture.size))
    grey.save(tmp_path / "grey.png")
    masked, plain = whiten_background(tmp_path / "cut.png"), whiten_background(tmp_path / "grey.png")
    assert (masked.how, plain.how) == ("transparency", "plain background")
    assert masked.picture is not None
    assert plain.picture is not None
    for one in (masked.picture, plain.picture):
        assert one.getpixel((0, 0)) == (255, 255, 255)
        assert one.getpixel((picture.width // 2, picture.height // 2)) != (255, 255, 255)


def test_grabcut_where_it_is_installed(photograph: Path) -> None:
    pytest.importorskip("cv2")
    masked = whiten_background(photograph)
    assert masked.how == "GrabCut"
    assert masked.picture is not None
    white = (np.asarray(masked.picture) == 255).all(-1).mean()
    assert 0.02 < white < 0.98


def test_a_picture_without_a_subject_is_skipped(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (12, 34, 56)).save(tmp_path / "flat.png")
    Image.new("RGBA", (40, 40), (12, 34, 56, 0)).save(tmp_path / "nothing.png")
    for name in ("flat.png", "nothing.png"):
        masked = whiten_background(tmp_path / name)
        assert (masked.picture, masked.how) == (None, "skipped")


def test_masks_that_do_not_fit_are_refused(photograph: Path, tmp_path: Path) -> None:
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    Image.new("L", Image.open(photograph).size, 0).save(tmp_path / "black.png")
    with pytest.raises(ImageError, match=r"small\.png: the picture's size .* received 10 x 10"):
        whiten_background(photograph, tmp_path / "small.png")
    with pytest.raises(ImageError, match=r"black\.png: white on the subject is expected"):
        whiten_background(photograph, tmp_path / "black.png")
