"""A bundle's own segmenter takes the background away, where neither mask nor a plain background does."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import skimage.data
from drawn_scenes import TRUTH, scene
from PIL import Image

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, parse_contract
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.reference.prepare import prepare_reference


@pytest.fixture(scope="module")
def segmenting(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.build(tmp_path_factory.mktemp("segmenter") / "bundle", segmenter=True))


def test_the_subject_in_a_scene_is_found_and_framed(segmenting: Path, pristine: Path) -> None:
    pipeline = Pipeline.load(segmenting)
    mask = pipeline.segment(scene())
    assert mask is not None
    found = np.asarray(mask) > 127
    assert (found & TRUTH).sum() / (found | TRUTH).sum() > 0.9
    subject = pipeline.cache(scene())
    assert subject.background.startswith("background removed by the bundle's segmenter")
    # the same as with the mask given by hand, but for its soft edge
    by_hand = prepare_reference(scene(), Image.fromarray((TRUTH * 255).astype(np.uint8)), size=16)
    apart = np.abs(np.asarray(subject.thumbnail, np.int16) - np.asarray(by_hand.image, np.int16))
    assert apart.mean() < 12
    assert "segmenter" not in Pipeline.load(pristine).cache(scene()).background


SQUARE = Image.fromarray((TRUTH * 255).astype(np.uint8))
NEARLY_ALL = Image.fromarray(np.where(np.arange(96)[None] < 70, 255, 0).repeat(64, axis=0).astype(np.uint8))


def room() -> Image.Image:
    """The same square in light that gets darker to one side, where GrabCut does find it."""
    pixels = np.random.default_rng(1).normal(0, 4, (64, 96, 3)) + np.linspace(90, 200, 96)[None, :, None]
    picture = Image.fromarray(np.clip(pixels * (0.6, 1, 0.9), 0, 255).astype(np.uint8))
    picture.paste("red", (18, 10, 48, 40))
    return picture


def test_a_doubtful_cut_gives_way_to_grabcut_and_both_are_said() -> None:
    """A network without its kind of subject takes nearly everything."""
    pytest.importorskip("cv2")
    prepared = prepare_reference(room(), size=64, segment=lambda _: NEARLY_ALL)
    assert prepared.how.startswith(
        "background removed with GrabCut; doubtful: the bundle's segmenter finds another subject; look at the result"
    )
    by_hand = prepare_reference(room(), SQUARE, size=64)
    assert np.abs(np.asarray(prepared.image, int) - np.asarray(by_hand.image, int)).mean() < 12
    small = Image.new("L", (96, 64))
    small.paste(255, (70, 44, 92, 60))
    apart = prepare_reference(room(), size=64, segment=lambda _: small)
    assert "by the bundle's segmenter; doubtful: GrabCut finds another subject" in apart.how
    agreed = prepare_reference(room(), size=64, segment=lambda _: SQUARE)
    assert agreed.how == "background removed by the bundle's segmenter; give a mask where it errs"
    given = prepare_reference(room(), size=64, segment=lambda _: small, segmenter="the given segmenter")
    assert given.how == "background removed by the given segmenter; give a mask where it errs", (
        "the user's own choice"
    )


def test_without_grabcut_most_of_a_picture_is_doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamcache.runtime.reference.prepare.has_grabcut", lambda: False)
    inside = Image.new("L", (96, 64))
    inside.paste(255, (4, 4, 92, 60))
    prepared = prepare_reference(scene(), size=64, segment=lambda _: inside)
    assert "doubtful: the subject found takes 80% of the picture" in prepared.how


PHOTOGRAPHS = ("chelsea.png", "coffee.png", "coins.png", "motorcycle_left.png", "rocket.jpg")


def test_photographs_are_cut_doubtfully_by_a_segmenter_of_drawn_toys() -> None:
    """scikit-image's, with the shipped bundle: none of its wrong cuts is silent."""
    pipeline = Pipeline.load("mini", keep_sessions=True, check_hashes=False)
    folder = Path(skimage.data.__file__).parent
    for name in PHOTOGRAPHS:
        picture = Image.open(folder / name).convert("RGB")
        picture.thumbnail((128, 128))
        how = prepare_reference(picture, size=64, segment=pipeline.segment).how
        assert "doubtful: " in how, (name, how)


def test_where_it_finds_nothing_or_a_mask_is_given_it_is_not_used(segmenting: Path) -> None:
    pipeline = Pipeline.load(segmenting)
    assert pipeline.segment(scene(None)) is None
    assert pipeline.segment(Image.new("RGB", (40, 40), "red")) is None
    assert pipeline.cache(scene(None)).background.startswith("no subject found by the bundle's segmenter; ")
    mask = Image.new("L", (96, 64))
    mask.paste(255, (18, 10, 48, 40))
    assert pipeline.cache(scene(), mask).background == "background removed with the given mask"


def test_the_contract_declares_it_and_verify_opens_it(segmenting: Path, pristine: Path) -> None:
    raw = json.loads((segmenting / CONTRACT_NAME).read_text(encoding="utf-8"))
    assert raw["format_version"] == 2
    assert raw["graphs"]["segmenter"]["mean"] == [0.5, 0.5, 0.5]
    older = json.loads((pristine / CONTRACT_NAME).read_text(encoding="utf-8"))
    assert older["format_version"] == 1
    assert "segmenter" not in older["graphs"], "version 0.1 refuses what it does not know"
    checks = {check.name: check for check in verify_bundle(segmenting)}
    assert checks["graph signatures"].passed
    assert checks["graph signatures"].detail.startswith("8 graphs")
    with pytest.raises(BundleError, match="format version 2 is expected, received 1"):
        parse_contract(json.dumps({**raw, "format_version": 1}))
    raw["graphs"]["segmenter"]["outputs"][0]["shape"] = [1, 2, 32, 32]
    with pytest.raises(BundleError, match=r"a segmenter's input \[1, 3, h, w\] and output"):
        parse_contract(json.dumps(raw))


def test_a_bundle_without_one_says_so(pristine: Path) -> None:
    with pytest.raises(BundleError, match="a bundle with a segmenter is expected"):
        Pipeline.load(pristine).segment(scene())
