"""The scores on cases with a known answer, on real photographs, and computed once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tiny_metrics import photographs, write_tiny_dino

from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, read_benchmark
from dreamcache.training.evaluation.dreambooth.encoders import ClipEncoder, DinoEncoder
from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan, row_folder
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights, find_weights
from dreamcache.training.evaluation.dreambooth.photographs import mean_similarity, similarity_within
from dreamcache.training.evaluation.dreambooth.scoring import (
    METRICS,
    Scorer,
    read_scores,
    scores_path,
)

ONE = GenerationPlan(images=1)


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def put(out: Path, pictures: dict[str, Image.Image], row: str = "row") -> None:
    """Each subject's picture, for each of its three prompts."""
    for subject, picture in pictures.items():
        folder = row_folder(out, row) / subject
        folder.mkdir(parents=True, exist_ok=True)
        for prompt in range(3):
            picture.save(folder / f"{prompt:02d}-0.png")


def scored(out: Path, row: str = "row") -> dict[str, dict[str, Any]]:
    """Each subject's first picture's scores."""
    subjects = read_scores(scores_path(out, row))["subjects"]
    return {name: record["pictures"]["00-0.png"] for name, record in subjects.items()}


def test_the_mean_of_all_pairs_by_hand() -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((n, 5)).astype(np.float32) for n in (3, 4))
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b, axis=1, keepdims=True)
    pairs = [[sum(float(x) * float(y) for x, y in zip(p, q, strict=True)) for q in b] for p in a]
    assert mean_similarity(a, b) == pytest.approx([sum(row) / 4 for row in pairs], abs=1e-6)
    assert mean_similarity(a, b) != pytest.approx([max(row) for row in pairs], abs=1e-3)


def test_photographs_among_themselves_leave_out_the_same_one() -> None:
    vectors = np.asarray([[1, 0], [1, 0], [0, 1]], np.float32)
    assert similarity_within(vectors) == pytest.approx(1 / 3)
    assert similarity_within(vectors) != pytest.approx(mean_similarity(vectors, vectors).mean())
    assert similarity_within(vectors[:1]) is None


@pytest.fixture
def single(own_dataset: Path) -> Benchmark:
    """One photograph a subject."""
    for path in own_dataset.rglob("0[12].jpg"):
        path.unlink()
    return read_benchmark(own_dataset)


def test_identical_pictures_score_one(
    single: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    put(tmp_path, {one.name: Image.open(one.pictures[0]) for one in single.subjects})
    assert Scorer(dino, clip, ONE).score_row("row", single, tmp_path, quiet) == 9
    for scores in scored(tmp_path).values():
        assert scores["dino"] == pytest.approx(1, abs=1e-6)
        assert scores["clip_i"] == pytest.approx(1, abs=1e-6)
        assert scores["clip_t"] < 0.9
        if scores["mask"] != "skipped":
            assert scores["mdino"] == pytest.approx(1, abs=1e-6)
            assert scores["mclip_i"] == pytest.approx(1, abs=1e-6)
    pictures = read_scores(scores_path(tmp_path, "row"))["subjects"]["tabby"]["pictures"]
    assert pictures["00-0.png"]["clip_t"] != pictures["01-0.png"]["clip_t"]


def test_shuffled_subjects_score_lower(
    benchmark_read: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    # unseen crops of the same photographs, mirrored
    crops = {one.name: photographs(one.name)[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
             for one in benchmark_read.subjects}  # fmt: skip
    names = list(crops)
    put(tmp_path, crops, "right")
    put(tmp_path, {name: crops[names[i - 1]] for i, name in enumerate(names)}, "shuffled")
    scorer = Scorer(dino, clip, ONE)
    for row in ("right", "shuffled"):
        scorer.score_row(row, benchmark_read, tmp_path, quiet)
    right, shuffled = scored(tmp_path, "right"), scored(tmp_path, "shuffled")
    # how much lower depends on the model; these are random
    for metric, margin in (("dino", 0.1), ("clip_i", 0.02)):
        means = [np.mean([scores[metric] for scores in row.values()]) for row in (right, shuffled)]
        assert means[0] > means[1] + margin, metric


def test_each_score_by_its_definition(
    benchmark_read: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    picture = photographs("coffee")[2]
    put(tmp_path, {"astronaut": picture})
    Scorer(dino, clip, ONE, masked=False).score_row("row", benchmark_read, tmp_path, quiet)
    scores = scored(tmp_path)["astronaut"]
    subject = next(one for one in benchmark_read.subjects if one.name == "astronaut")
    real = [Image.open(path).convert("RGB") for path in subject.pictures]
    d, c = DinoEncoder(dino), ClipEncoder(clip)
    one_by_one = [float(d.pictures([picture])[0] @ d.pictures([photograph])[0]) for photograph in real]
    assert scores["dino"] == pytest.approx(np.mean(one_by_one), abs=1e-5)
    text = c.prompts(["a toy in the jungle"])[0]
    assert scores["clip_t"] == pytest.approx(float(c.pictures([picture])[0] @ text), abs=1e-5)
    assert scores["clip_t"] != pytest.approx(
        float(c.pictures([picture])[0] @ c.prompts(["a red toy"])[0]), abs=1e-4
    )
    assert "mdino" not in scores


def test_masked_scores_do_not_see_the_background(
    single: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    """The photograph's subject on another background: MDINO and MCLIP-I are 1, DINO and CLIP-I are not."""
    (coffee,) = (one for one in single.subjects if one.name == "coffee")
    photograph = Image.open(coffee.pictures[0]).convert("RGB")
    mask = Image.new("L", photograph.size, 0)
    ImageDraw.Draw(mask).ellipse((30, 20, 100, 80), fill=255)
    moved = Image.radial_gradient("L").resize(photograph.size).convert("RGB")
    moved.paste(photograph, mask=mask)
    put(tmp_path, {"coffee": moved})
    given = tmp_path / "given"
    (given / "coffee").mkdir(parents=True)
    mask.save(given / "coffee" / "00.png")
    for_generated = tmp_path / "masks" / "row" / "coffee"
    for_generated.mkdir(parents=True)
    for prompt in range(3):
        mask.save(for_generated / f"{prompt:02d}-0.png")
    plan = GenerationPlan(images=1, masks=given)
    Scorer(dino, clip, plan).score_row("row", single, tmp_path, quiet)
    scores = scored(tmp_path)["coffee"]
    assert scores["mask"] == "given mask"
    assert (scores["mdino"], scores["mclip_i"]) == pytest.approx((1, 1), abs=1e-6)
    assert scores["dino"] < 0.99
    assert scores["clip_i"] < 0.99
    record = read_scores(scores_path(tmp_path, "row"))["subjects"]["coffee"]["real"]
    assert record["masks"] == {"given mask": 1}
    # another mask is another score
    ImageDraw.Draw(mask).rectangle((0, 0, 60, 95), fill=255)
    mask.save(for_generated / "00-0.png")
    assert Scorer(dino, clip, plan).score_row("row", single, tmp_path, quiet) == 1
    assert scored(tmp_path)["coffee"]["mdino"] < 0.999


def test_a_picture_without_a_subject_has_no_masked_score(
    benchmark_read: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    put(tmp_path, {"coffee": Image.new("RGB", (32, 32), (9, 90, 200))})
    Scorer(dino, clip, ONE).score_row("row", benchmark_read, tmp_path, quiet)
    scores = scored(tmp_path)["coffee"]
    assert (scores["mdino"], scores["mclip_i"], scores["mask"]) == (None, None, "skipped")
    assert scores["dino"] < 1


def test_scores_are_computed_once(
    benchmark_read: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    put(out, {one.name: photographs(one.name)[0] for one in benchmark_read.subjects})
    scorer = Scorer(dino, clip, ONE, masked=False)
    assert scorer.score_row("row", benchmark_read, out, quiet) == 9
    before = scores_path(out, "row").read_bytes()
    assert Scorer(dino, clip, ONE, masked=False).score_row("row", benchmark_read, out, quiet) == 0
    assert scores_path(out, "row").read_bytes() == before
    part = replace(
        benchmark_read, subjects=(replace(benchmark_read.subjects[0], prompts=("a cat in the jungle",)),)
    )
    assert Scorer(dino, clip, ONE, masked=False).score_row("row", part, out, quiet) == 0
    assert scores_path(out, "row").read_bytes() == before
    photographs("coffee")[1].save(row_folder(out, "row") / "tabby" / "01-0.png")
    assert Scorer(dino, clip, ONE, masked=False).score_row("row", benchmark_read, out, quiet) == 1
    (row_folder(out, "row") / "coffee" / "02-0.png").unlink()
    assert Scorer(dino, clip, ONE, masked=False).score_row("row", benchmark_read, out, quiet) == 0
    assert [*read_scores(scores_path(out, "row"))["subjects"]["coffee"]["pictures"]] == [
        "00-0.png",
        "01-0.png",
    ]
    other = find_weights("dino", str(write_tiny_dino(tmp_path / "other", seed=3)))
    assert Scorer(other, clip, ONE, masked=False).score_row("row", benchmark_read, out, quiet) == 8
    assert Scorer(other, clip, ONE).score_row("row", benchmark_read, out, quiet) == 8
    assert {*METRICS} <= {*scored(out)["coffee"]}


def test_other_photographs_are_scored_again(
    own_dataset: Path, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    put(out, {"tabby": photographs("tabby")[0]})
    benchmark = read_benchmark(own_dataset, ["tabby"])
    Scorer(dino, clip, ONE, masked=False).score_row("row", benchmark, out, quiet)
    before = scored(out)["tabby"]["dino"]
    shutil.copy(own_dataset / "coffee" / "00.jpg", own_dataset / "tabby" / "02.jpg")
    assert Scorer(dino, clip, ONE, masked=False).score_row("row", benchmark, out, quiet) == 3
    assert scored(out)["tabby"]["dino"] < before


@pytest.mark.parametrize("damage", ["{", json.dumps({"schema": 99}), "[]"])
def test_damaged_scores_say_what_to_do(
    damage: str, benchmark_read: Benchmark, dino: MetricWeights, clip: MetricWeights, tmp_path: Path
) -> None:
    put(tmp_path, {"coffee": photographs("coffee")[0]})
    scores_path(tmp_path, "row").parent.mkdir()
    scores_path(tmp_path, "row").write_text(damage)
    with pytest.raises(BenchmarkError, match=r"row\.json .*delete it to compute the scores again"):
        Scorer(dino, clip, ONE).score_row("row", benchmark_read, tmp_path, quiet)
    assert scores_path(tmp_path, "row").read_text() == damage
