"""A bundle's own segmenter takes the background away, where neither mask nor a plain background does."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
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


def test_where_it_finds_nothing_or_a_mask_is_given_it_is_not_used(segmenting: Path) -> None:
    pipeline = Pipeline.load(segmenting)
    assert pipeline.segment(scene(None)) is None
    assert pipeline.segment(Image.new("RGB", (40, 40), "red")) is None
    assert "segmenter" not in pipeline.cache(scene(None)).background
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
