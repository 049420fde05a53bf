"""Scores: a real judge with random weights, and toys made to agree or disagree with its verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dreamcache.training.evaluation.toys.attribute_classifier import (
    AttributeClassifier,
    Attributes,
    load_classifier,
    stated_accuracy,
)
from dreamcache.training.evaluation.toys.benchmark import (
    Condition,
    ToyCase,
    as_record,
    draw_cases,
    run_benchmark,
)
from dreamcache.training.evaluation.toys.scores import Scores, mean_colour, score
from dreamcache.training.miniature.stages.attribute_classifier import accuracy_on_renders, save_classifier
from dreamcache.training.world.dataset import draw_batch
from dreamcache.training.world.identity import Identity
from dreamcache.training.world.samples import ATTRIBUTES

COUNT = 12


@pytest.fixture(scope="module")
def judge() -> AttributeClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AttributeClassifier().eval()


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return draw_batch(0, 0, COUNT).targets


@pytest.fixture(scope="module")
def verdict(judge: AttributeClassifier, pictures: NDArray[np.uint8]) -> Attributes:
    return judge.classify(pictures)


def found(verdict: Attributes, attribute: str, other: int = 0) -> list[str]:
    """What the judge found, or classes that it did not find, `other` further on."""
    names = ATTRIBUTES[attribute]
    return [names[(int(i) + other) % len(names)] for i in verdict.classes[attribute]]


def agreeing(verdict: Attributes) -> list[Identity]:
    """Different toys that look as the judge says; it does not read `build`, `top` and `trim`."""
    looks = zip(*(found(verdict, name) for name in ("kind", "body", "accent", "pattern")), strict=True)
    return [
        Identity(kind, body, accent, pattern, i % 3, i // 3 % 3, i // 9)
        for i, (kind, body, accent, pattern) in enumerate(looks)
    ]


def scored(
    judge: AttributeClassifier, verdict: Attributes, pictures: NDArray[np.uint8], toys: list[Identity]
) -> Scores:
    return score(judge, pictures, toys, found(verdict, "scene"), pictures, verdict.masks)


def test_a_verdict_has_a_class_for_every_picture_whatever_the_batch(
    judge: AttributeClassifier, verdict: Attributes, pictures: NDArray[np.uint8]
) -> None:
    small = judge.classify(pictures, batch=5)
    for name, names in ATTRIBUTES.items():
        assert verdict.classes[name].shape == (COUNT,)
        assert verdict.classes[name].max() < len(names)
        assert np.array_equal(small.classes[name], verdict.classes[name])
    assert verdict.masks.shape == (COUNT, 64, 64)
    assert verdict.masks.min() >= 0
    assert verdict.masks.max() <= 1
    np.testing.assert_allclose(small.masks, verdict.masks, atol=1e-5)


def test_full_agreement_scores_one_and_no_distance(
    judge: AttributeClassifier, verdict: Attributes, pictures: NDArray[np.uint8]
) -> None:
    scores = scored(judge, verdict, pictures, agreeing(verdict))
    for interval in (scores.identity_accuracy, scores.scene_accuracy, scores.kind_accuracy):
        assert (interval.mean, interval.low, interval.high) == (1, 1, 1)
    assert scores.attributes == {"body": 1, "accent": 1, "pattern": 1}
    assert scores.colour_distance.mean == 0


def test_each_attribute_is_a_third_of_the_identity(
    judge: AttributeClassifier, verdict: Attributes, pictures: NDArray[np.uint8]
) -> None:
    toys = agreeing(verdict)
    wrong = found(verdict, "pattern", other=1)
    toys = [replace(toy, pattern=pattern) for toy, pattern in zip(toys, wrong, strict=True)]
    scores = scored(judge, verdict, pictures, toys)
    assert scores.identity_accuracy.mean == pytest.approx(2 / 3)
    assert scores.attributes == {"body": 1, "accent": 1, "pattern": 0}
    assert scores.kind_accuracy.mean == 1
    toys = [replace(toy, body=body) for toy, body in zip(toys, found(verdict, "body", other=3), strict=True)]
    assert scored(judge, verdict, pictures, toys).identity_accuracy.mean == pytest.approx(1 / 3)


def test_kind_and_scene_are_scored_apart_from_the_identity(
    judge: AttributeClassifier, verdict: Attributes, pictures: NDArray[np.uint8]
) -> None:
    toys = agreeing(verdict)
    wrong = found(verdict, "kind", other=2)
    toys = [
        replace(toy, kind=kind) if i < 3 else toy
        for i, (toy, kind) in enumerate(zip(toys, wrong, strict=True))
    ]
    right, others = found(verdict, "scene"), found(verdict, "scene", other=5)
    scenes = right[: COUNT // 2] + others[COUNT // 2 :]
    scores = score(judge, pictures, toys, scenes, pictures, verdict.masks)
    assert scores.kind_accuracy.mean == pytest.approx(1 - 3 / COUNT)
    assert scores.scene_accuracy.mean == pytest.approx(0.5)
    assert scores.scene_accuracy.low < 0.5 < scores.scene_accuracy.high
    assert scores.identity_accuracy.mean == 1


def test_a_toy_weighs_the_same_however_many_pictures_show_it(
    judge: AttributeClassifier, pictures: NDArray[np.uint8]
) -> None:
    # three pictures of one toy in the scene that the judge finds, one of another toy in a scene it does not find
    four = np.repeat(pictures[:1], 4, axis=0)
    verdict = judge.classify(four)
    one = agreeing(verdict)[0]
    toys = [one, one, one, replace(one, build=2)]
    scenes = [*found(verdict, "scene")[:3], found(verdict, "scene", other=1)[3]]
    scores = score(judge, four, toys, scenes, four, verdict.masks)
    assert scores.scene_accuracy.mean == pytest.approx(0.5)


def test_the_interval_holds_the_mean_and_is_seeded(
    judge: AttributeClassifier, verdict: Attributes, pictures: NDArray[np.uint8]
) -> None:
    references = pictures[::-1].copy()
    scores, again = (
        score(judge, pictures, agreeing(verdict), found(verdict, "scene"), references, verdict.masks[::-1])
        for _ in range(2)
    )
    distance = scores.colour_distance
    assert 0 < distance.low < distance.mean < distance.high
    assert scores == again
    expected = np.linalg.norm(
        mean_colour(pictures, verdict.masks) - mean_colour(references, verdict.masks[::-1]), axis=1
    )
    assert distance.mean == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    ("rgb", "lab"),
    # Lindbloom's values for sRGB under D65
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_mean_colours_are_those_of_the_tables(
    rgb: tuple[int, int, int], lab: tuple[float, float, float]
) -> None:
    picture = np.full((1, 64, 64, 3), 200, np.uint8)
    picture[:, 10:30, 10:30] = rgb
    mask = np.zeros((1, 64, 64), np.float32)
    mask[:, 10:30, 10:30] = 1
    np.testing.assert_allclose(mean_colour(picture, mask)[0], lab, atol=0.05)
    whole = mean_colour(picture, np.ones_like(mask))[0]
    assert np.abs(whole - lab).max() > 1


def test_a_judge_is_the_same_from_its_file(
    judge: AttributeClassifier, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    rounded = AttributeClassifier()
    rounded.load_state_dict(
        {name: value.bfloat16().half().float() for name, value in judge.state_dict().items()}
    )
    save_classifier(judge, tmp_path / "judge.safetensors", {"body": 0.25})
    assert stated_accuracy(tmp_path / "judge.safetensors") == {"body": 0.25}
    loaded = load_classifier(tmp_path / "judge.safetensors")
    ours, theirs = rounded.eval().classify(pictures), loaded.classify(pictures)
    assert all(np.array_equal(ours.classes[name], theirs.classes[name]) for name in ATTRIBUTES)
    assert np.array_equal(ours.masks, theirs.masks)
    with pytest.raises(FileNotFoundError, match="dreamcache train miniature judge"):
        load_classifier(tmp_path / "absent.safetensors")


def test_the_shipped_judge_is_as_good_as_its_file_says() -> None:
    stated, found = stated_accuracy(), accuracy_on_renders(load_classifier(), samples=150)
    assert set(stated) == set(found)
    assert min(stated.values()) > 0.8
    assert max(abs(stated[name] - found[name]) for name in stated) < 0.05


def test_a_random_judge_is_near_chance_on_renders(judge: AttributeClassifier) -> None:
    report = accuracy_on_renders(judge, samples=60)
    assert set(report) == {*ATTRIBUTES, "outline_iou"}
    for name, names in ATTRIBUTES.items():
        assert report[name] <= 1 / len(names) + 0.2


def test_the_benchmark_scores_every_condition_against_the_right_toy(judge: AttributeClassifier) -> None:
    cases = draw_cases(3, 2)
    painted = {"text_only": 0, "dreamcache": 0, "wrong_cache": 0}

    def paint(asked: list[ToyCase], condition: Condition) -> NDArray[np.uint8]:
        painted[condition] += len(asked)
        return np.stack([c.wrong_reference if condition == "wrong_cache" else c.reference for c in asked])

    results = run_benchmark(cases, paint, judge)
    assert painted == {"text_only": 6, "dreamcache": 6, "wrong_cache": 6}
    assert results["dreamcache"] == results["text_only"]
    assert results["dreamcache"] != results["wrong_cache"]
    record = as_record(results)
    assert record["wrong_cache"]["colour_distance"]["mean"] == results["wrong_cache"].colour_distance.mean
