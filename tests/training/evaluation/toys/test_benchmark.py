"""The benchmark's cases: held-out toys, prompts that name kind and scene alone, and wrong toys."""

from __future__ import annotations

import numpy as np
import pytest

from dreamcache.training.evaluation.toys.attribute_classifier import load_classifier
from dreamcache.training.evaluation.toys.benchmark import PLACES, draw_cases
from dreamcache.training.evaluation.toys.scores import IDENTITY_ATTRIBUTES
from dreamcache.training.world.captions import plain_caption
from dreamcache.training.world.identity import is_held_out
from dreamcache.training.world.samples import ATTRIBUTES

TOYS, SCENES = 12, 4


def test_every_toy_is_held_out_and_every_wrong_toy_is_wrong_in_all_that_is_scored() -> None:
    cases = draw_cases(TOYS, SCENES)
    assert len(cases) == TOYS * SCENES
    for case in cases:
        assert is_held_out(case.toy)
        assert is_held_out(case.wrong_toy)
        assert case.wrong_toy.kind == case.toy.kind
        for name in IDENTITY_ATTRIBUTES:
            assert getattr(case.wrong_toy, name) != getattr(case.toy, name)
        assert case.prompt == plain_caption(case.toy, case.scene)
        assert not np.array_equal(case.reference, case.wrong_reference)


def test_a_toy_stands_in_different_scenes_with_one_reference() -> None:
    cases = draw_cases(TOYS, SCENES)
    for start in range(0, len(cases), SCENES):
        group = cases[start : start + SCENES]
        assert len({case.toy for case in group}) == 1
        assert len({case.scene for case in group}) == SCENES
        assert {case.scene for case in group} <= set(PLACES)
        assert all(np.array_equal(case.reference, group[0].reference) for case in group)
    assert [case.seed for case in cases] == list(range(len(cases)))


def test_the_mask_is_the_reference_s() -> None:
    for case in draw_cases(4, 1):
        assert case.mask.dtype == np.float32
        assert case.mask.max() == 1
        assert (case.reference[case.mask == 0] == 255).all()


def test_cases_are_seeded_and_more_toys_only_add_to_them() -> None:
    few, more, other = draw_cases(2, 3), draw_cases(3, 3), draw_cases(2, 3, seed=1)
    for one, same in zip(few, more, strict=False):
        assert (one.toy, one.scene, one.wrong_toy) == (same.toy, same.scene, same.wrong_toy)
        assert np.array_equal(one.reference, same.reference)
    assert [case.toy for case in few] != [case.toy for case in other]


@pytest.mark.parametrize("scenes", [0, 13])
def test_scenes_that_the_world_does_not_have_are_refused(scenes: int) -> None:
    with pytest.raises(ValueError, match=f"scenes is {scenes}, expected 1 to 12"):
        draw_cases(1, scenes)


def test_two_hundred_toys_are_two_hundred_different_toys() -> None:
    cases = draw_cases(200, 1)
    assert len({case.toy.key for case in cases}) == 200
    assert len({case.wrong_toy.key for case in cases} & {case.toy.key for case in cases}) < 200


def test_a_photograph_shows_the_toy_in_a_scene_that_the_prompt_does_not_name() -> None:
    judge = load_classifier()
    cases = draw_cases(8, 2, size=judge.size)
    photographs = np.stack([case.photograph for case in cases])
    found = judge.classify(photographs).classes
    for name in ("kind", "body", "accent"):
        truth = [ATTRIBUTES[name].index(getattr(case.toy, name)) for case in cases]
        assert np.mean(found[name] == truth) > 0.9
    assert not any(found["scene"] == [ATTRIBUTES["scene"].index(case.scene) for case in cases])
    assert np.array_equal(cases[3].photograph, photographs[3])
    assert not np.array_equal(photographs[2], photographs[3])


def test_what_is_cached_under_each_condition() -> None:
    case = draw_cases(1, 1)[0]
    assert case.reference_of("text_only") is None
    expected = {
        "dreamcache": case.reference,
        "wrong_cache": case.wrong_reference,
        "from_scene": case.photograph,
    }
    for condition, reference in expected.items():
        assert np.array_equal(case.reference_of(condition), reference)  # type: ignore[arg-type]
