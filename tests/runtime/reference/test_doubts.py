"""Results of the background's rules are judged: by known masks what is cut, by its words what is doubtful."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from dreamcache.runtime.reference.doubts import doubt_of, surrounded
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.reference.segmentation import plain_background

Mask = NDArray[np.bool_]


def iou(one: Mask, two: Mask) -> float:
    return float(np.count_nonzero(one & two) / np.count_nonzero(one | two))


def cut(image: Image.Image) -> tuple[Mask, str]:
    found = plain_background(image)
    assert found is not None
    return np.asarray(found.foreground) >= 128, found.doubt


def mug(body: int, outline: int | None = None) -> tuple[Image.Image, Mask]:
    """A pale mug on white with a grey handle: the picture and its true mask."""
    image, mask = Image.new("RGB", (240, 200), "white"), Image.new("L", (240, 200), 0)
    for canvas, pale, dark in ((image, (body,) * 3, (150, 150, 160)), (mask, 255, 255)):
        draw = ImageDraw.Draw(canvas)
        draw.arc((140, 70, 200, 130), -90, 90, fill=dark, width=12)
        draw.rectangle((70, 40, 160, 160), fill=pale)
        if outline is not None:
            draw.line([(70, 40), (160, 40), (160, 160), (110, 160)], fill=dark, width=3)
    return image, np.asarray(mask) >= 128


@pytest.mark.parametrize("body", [246, 250])
def test_a_white_mug_on_white_keeps_its_body(body: int) -> None:
    image, true = mug(body)
    found, doubt = cut(image)
    assert iou(found, true) > 0.95
    assert "nearly of the background's colour" in doubt
    assert "doubtful" in prepare_reference(image, size=64).how
    dark, doubt = cut(mug(120)[0])
    assert iou(dark, true) > 0.95
    assert doubt == ""


def test_a_body_that_cannot_be_told_from_white_is_said_to_be_hollow() -> None:
    found, doubt = cut(mug(255, outline=1)[0])
    assert np.count_nonzero(found) < 0.5 * np.count_nonzero(mug(255, outline=1)[1])
    assert doubt in ("the subject found is hollow", "the subject found is scattered")


def test_shadows_and_uneven_light_are_no_body() -> None:
    y, x = np.mgrid[:200, :240]
    light = 255 - 12 * np.exp(-((x - 120) ** 2 + (y - 100) ** 2) / 8000)
    image = Image.fromarray(np.dstack([light] * 3).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((90, 70, 150, 130), fill=(180, 40, 40))
    found, doubt = cut(image)
    assert found.mean() == pytest.approx(np.pi * 30**2 / 48_000, rel=0.05)
    assert doubt == ""
    shadow = Image.new("L", (240, 200), 255)
    ImageDraw.Draw(shadow).ellipse((100, 110, 190, 150), fill=240)
    shaded = Image.merge("RGB", [shadow.filter(ImageFilter.GaussianBlur(8))] * 3)
    ImageDraw.Draw(shaded).ellipse((90, 70, 150, 130), fill=(180, 40, 40))
    found, _ = cut(shaded)
    assert found.mean() == pytest.approx(np.pi * 30**2 / 48_000, rel=0.1)


def test_the_hole_of_a_ring_is_cut_out() -> None:
    image, mask = Image.new("RGB", (200, 200), "#18c030"), Image.new("L", (200, 200), 0)
    for canvas, colour in ((image, (200, 160, 40)), (mask, 255)):
        ImageDraw.Draw(canvas).ellipse((40, 40, 160, 160), outline=colour, width=24)
    found, doubt = cut(image)
    assert iou(found, np.asarray(mask) >= 128) > 0.95
    assert doubt == ""
    assert prepare_reference(image, size=64).image.getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize("alpha", [254, 100, 255])
def test_transparency_that_removes_nothing_is_passed_over(alpha: int) -> None:
    image = Image.new("RGB", (160, 120), "#3c7850")
    ImageDraw.Draw(image).rectangle((30, 50, 89, 79), fill="red")
    image.putalpha(alpha)
    prepared = prepare_reference(image, size=64)
    assert "plain background" in prepared.how
    assert ("transparency removes nothing" in prepared.how) == (alpha != 255)
    assert 0.2 < prepared.mask.mean() < 0.5
    corners = Image.new("L", image.size, 255)
    corners.paste(0, (0, 0, 12, 12))
    image.putalpha(corners)
    assert "transparency removes nothing" in prepare_reference(image, size=64).how
    corners.paste(0, (0, 0, 160, 30))
    image.putalpha(corners)
    assert prepare_reference(image, size=64).how == "background removed by the picture's transparency"


def test_grabcut_that_takes_the_edge_is_doubtful() -> None:
    pytest.importorskip("cv2")
    for picture in (skimage.data.rocket(), skimage.data.camera()):
        prepared = prepare_reference(Image.fromarray(picture), size=64)
        assert "doubtful: the subject found takes" in prepared.how
        assert "give a mask" in prepared.how
    man = prepared.mask  # the camera man, whom the second cut finds without the grass
    assert man.mean() < 0.35
    assert "doubtful" not in prepare_reference(Image.fromarray(skimage.data.coffee()), size=64).how


def test_what_a_mask_says_by_itself() -> None:
    full = np.zeros((20, 20), bool)
    assert doubt_of(full) == ""
    full[4:16, 4:16] = True
    assert doubt_of(full) == ""
    ring = full.copy()
    ring[6:14, 6:14] = False
    assert doubt_of(ring) == "the subject found is hollow"
    assert np.array_equal(surrounded(ring), full)
    full[10:, :] = True
    assert "takes 50% of the picture's edge" in doubt_of(full)
    full[:] = False
    full[[2, 2, 17, 17], [2, 17, 2, 17]] = True
    assert doubt_of(full) == "the subject found is scattered"
