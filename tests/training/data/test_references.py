"""Stage 3: masks and references of real photographs, the limits, and both segmenters on tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from tiny_synthesis import write_tiny_salient

from dreamcache.runtime.reference.prepare import MIN_FILL
from dreamcache.runtime.reference.salient import as_probability
from dreamcache.training.data.models.grounded import GroundedSegmenter, count_objects
from dreamcache.training.data.models.salient import SalientSegmenter
from dreamcache.training.data.models.segmentation import Found, Limits, border_share, clean_mask, measure_mask
from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.pictures import decode_array
from dreamcache.training.data.stages.references import ReferenceStage, cut_reference
from dreamcache.training.data.stages.stage import ShardProgress, run_stage
from dreamcache.training.errors import SynthesisError, WeightsError

SIZE = 256
# Of the tiny salient model: what it takes to stand out in a photograph.
PHOTO_THRESHOLD = 2.5


def square(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels).convert("RGB").resize((SIZE, SIZE))


@pytest.fixture(scope="module")
def salient(tmp_path_factory: pytest.TempPathFactory) -> SalientSegmenter:
    return SalientSegmenter(write_tiny_salient(tmp_path_factory.mktemp("m") / "s.onnx", PHOTO_THRESHOLD))


def disc(radius: float, row: float = 0.5, column: float = 0.5) -> NDArray[np.uint8]:
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    return np.where((y - row) ** 2 + (x - column) ** 2 < radius**2, 255, 0).astype(np.uint8)


def test_a_photographed_eye_is_cut_out_on_white(salient: SalientSegmenter) -> None:
    photograph = square(np.pad(data.retina()[::4, ::4], ((120, 120), (120, 120), (0, 0))))
    (found,) = salient.find([photograph], ["eye"])
    assert found is not None
    assert found.confidence > 0.9
    truth = np.asarray(photograph).max(-1) > 40
    inside = found.mask >= 128
    assert (inside & truth).sum() / (inside | truth).sum() > 0.85
    made, fault = cut_reference(photograph, found, Limits(), SIZE)
    assert made is not None
    assert fault == ""
    assert made.measures["fill"] >= MIN_FILL
    assert made.measures["objects"] == 1
    reference = decode_array(made.members["reference.png"], SIZE, "RGB", "")
    assert (reference[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    columns = np.nonzero((reference < 250).any((0, 2)))[0]
    assert np.ptp(columns) + 1 >= MIN_FILL * SIZE
    # the iris' red, not its black surroundings, stands in the middle
    middle = reference[96:160, 96:160].reshape(-1, 3).mean(0)
    assert middle[0] > 1.5 * middle[2]


def test_a_photographed_rocket_is_found_where_it_stands(salient: SalientSegmenter) -> None:
    photograph = square(data.rocket()[100:300, 220:420])
    (found,) = salient.find([photograph], ["rocket"])
    assert found is not None
    made, fault = cut_reference(photograph, found, Limits(max_border=0.1), SIZE)
    assert made is not None, fault
    columns = np.nonzero((decode_array(made.members["mask.png"], SIZE, "L", "") >= 128).any(0))[0]
    # the rocket stands in columns 316 to 342 of the photograph
    assert columns.min() >= (300 - 220) / 200 * SIZE
    assert columns.max() <= (360 - 220) / 200 * SIZE


@pytest.mark.parametrize(
    ("name", "part", "fault"),
    [
        ("chelsea", np.s_[:300, 75:375], "several objects"),
        ("coffee", np.s_[:260, 160:420], "cut off at the border"),
        ("astronaut", np.s_[:, :], "too large"),
        ("rocket", np.s_[40:340, 160:460], "too small"),
    ],
)
def test_photographs_that_make_no_reference(
    salient: SalientSegmenter, name: str, part: tuple[slice, slice], fault: str
) -> None:
    load: Callable[[], NDArray[np.uint8]] = getattr(data, name)
    (found,) = salient.find([square(load()[part])], [name])
    assert cut_reference(square(load()[part]), found, Limits(), SIZE) == (None, fault)


def test_an_even_picture_holds_nothing(salient: SalientSegmenter) -> None:
    assert salient.find([Image.new("RGB", (SIZE, SIZE), (90, 120, 30))], ["x"]) == [None]
    assert measure_mask(None, Limits()) is None
    assert measure_mask(Found(np.zeros((8, 8), np.uint8), 1.0), Limits()) is None


def test_each_limit_refuses_and_what_keeps_to_them_passes() -> None:
    whole = Found(disc(0.3), 0.9)
    judged = measure_mask(whole, Limits())
    assert judged is not None
    assert judged.fault is None
    assert judged.area == pytest.approx(np.pi * 0.3**2, abs=2e-3)
    assert judged.border == 0
    two = np.maximum(disc(0.15, column=0.25), disc(0.15, column=0.75))
    faults = {
        "confidence too low": replace(whole, confidence=0.34),
        "too small": Found(disc(0.1), 0.9),
        "too large": Found(disc(0.49), 0.9),
        "cut off at the border": Found(disc(0.3, row=0.9), 0.9),
        "several objects": Found(two, 0.9),
    }
    for fault, found in faults.items():
        assert (judged := measure_mask(found, Limits())) is not None
        assert judged.fault == fault
    assert (judged := measure_mask(replace(whole, objects=2), Limits())) is not None
    assert judged.fault == "several objects"
    assert (judged := measure_mask(Found(two, 0.9), Limits(max_objects=2))) is not None
    assert judged.fault is None


def test_specks_haze_and_holes_are_cleaned() -> None:
    mask = disc(0.3)
    mask[mask == 0] = 60  # a haze of background
    mask[120:124, 120:124] = 200  # half transparent inside
    mask[5:8, 5:8] = 255  # a speck
    cleaned, parts = clean_mask(mask)
    assert parts == 1
    assert cleaned[6, 6] == cleaned[0, 100] == 0
    assert (cleaned[100:150, 100:150] == 255).all()
    assert set(np.unique(cleaned)) == {0, 60, 255}, "haze stays as the soft edge alone"
    assert clean_mask(np.zeros((8, 8), np.uint8))[1] == 0


def test_the_border_counts_the_outermost_pixels() -> None:
    inside = np.zeros((10, 10), bool)
    inside[0, :9] = True
    inside[1:9, 1:9] = True
    assert border_share(inside) == pytest.approx(9 / 36)


def test_saliency_is_a_probability_as_it_is_or_as_logits() -> None:
    plain = np.asarray([[0.0, 0.25], [0.5, 1.0]], np.float32)
    assert np.array_equal(as_probability(plain), plain)
    logits = np.asarray([[-40, 0.0], [2.0, np.nan]], np.float32)
    assert as_probability(logits) == pytest.approx(np.asarray([[0, 0.5], [0.8808, 0]]), abs=1e-4)


def test_boxes_of_one_object_count_once() -> None:
    cat, ear, dog = [10, 10, 60, 60], [12, 12, 25, 30], [70, 10, 95, 60]
    boxes = np.asarray([cat, ear, dog], np.float32)
    assert count_objects(boxes, np.asarray([0.9, 0.8, 0.7], np.float32)) == 2
    assert count_objects(boxes, np.asarray([0.9, 0.8, 0.5], np.float32)) == 1
    assert count_objects(boxes[:1], np.asarray([0.4], np.float32)) == 1


@pytest.fixture(scope="module")
def grounded(models: Path) -> GroundedSegmenter:
    return GroundedSegmenter(str(models / "detector"), str(models / "sam"), box_threshold=0.5)


def test_grounding_dino_and_sam_mask_each_picture_by_itself(grounded: GroundedSegmenter) -> None:
    photographs = [square(data.chelsea()[:300, 75:375]), square(data.coffee()[:400, 80:480])]
    both = grounded.find(photographs, ["cat", "coffee mug."])
    for picture, subject, found in zip(photographs, ["cat", "coffee mug."], both, strict=True):
        assert found is not None
        assert found.mask.shape == (SIZE, SIZE)
        assert set(np.unique(found.mask)) <= {0, 255}
        assert 0 <= found.confidence <= 1
        (alone,) = grounded.find([picture], [subject])
        assert alone is not None
        # a random mask lies near its threshold everywhere; padded texts round differently
        assert (alone.mask != found.mask).mean() < 0.02
    # a score above 1 does not exist: nothing is found, and SAM is not asked
    assert replace(grounded, box_threshold=1.0).find(photographs, ["cat", "cup"]) == [None, None]
    assert [model.role for model in grounded.models] == ["detector", "segmenter"]


def test_the_stage_through_both_segmenters(
    tmp_path: Path, targets: Path, models: Path, grounded: GroundedSegmenter
) -> None:
    anything = Limits(min_area=0, max_area=1, max_border=1, min_confidence=0, max_objects=99)
    for name, segmenter in (("grounded", grounded), ("salient", SalientSegmenter(models / "salient.onnx"))):
        summary = run_stage(ReferenceStage(targets, segmenter, anything, batch=3), tmp_path / name)
        source = ShardFolder.open(tmp_path / name, "references")
        samples = [sample for shard in range(3) for sample in source.read(shard)]
        assert summary.samples == len(samples) > 0
        record = json.loads(samples[0].members["json"])
        assert record["fill"] >= MIN_FILL
        assert {"subject", "target_seed", "confidence", "area", "border"} <= record.keys()
        assert samples[0].members["target.png"] == next(
            sample.members["target.png"]
            for sample in ShardFolder.open(targets, "targets").read(0)
            if sample.key == samples[0].key
        )


def test_a_segmenter_that_finds_nothing_leaves_nothing(
    tmp_path: Path, targets: Path, grounded: GroundedSegmenter
) -> None:
    blind = ReferenceStage(targets, replace(grounded, box_threshold=1.0))
    with pytest.raises(SynthesisError, match=r"references-00000\.tar: no sample .*\(nothing found: 4\)"):
        run_stage(blind, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".claims", "index.json"]
    report = ShardProgress()
    assert list(blind.samples(1, report)) == []
    assert report.rejected == {"nothing found": 4}


def test_missing_and_wrong_segmenters_are_one_line(tmp_path: Path, models: Path, targets: Path) -> None:
    cases = {
        SalientSegmenter(tmp_path / "u2net.onnx"): "put one as ONNX there",
        GroundedSegmenter(
            str(tmp_path / "no"), str(models / "sam")
        ): "hf download IDEA-Research/grounding-dino",
        GroundedSegmenter(
            str(models / "detector"), str(tmp_path / "no")
        ): "hf download facebook/sam-vit-huge",
    }
    for segmenter, message in cases.items():
        with pytest.raises(WeightsError, match=message):
            _ = ReferenceStage(targets, segmenter).index
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    picture = [Image.new("RGB", (32, 32))]
    with pytest.raises(WeightsError, match="an ONNX model is expected"):
        SalientSegmenter(tmp_path / "broken.onnx").find(picture, ["x"])
    with pytest.raises(
        WeightsError, match="a detector such as IDEA-Research/grounding-dino-base is expected"
    ):
        GroundedSegmenter(str(models / "llama"), str(models / "sam")).find(picture, ["x"])
