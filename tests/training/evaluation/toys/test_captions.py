"""Captions alone: what they name, and how the judge scores pictures of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dreamcache.training.evaluation.toys.attribute_classifier import load_classifier
from dreamcache.training.evaluation.toys.captions import (
    CaptionCase,
    draw_caption_cases,
    named_in,
    score_captions,
)
from dreamcache.training.evaluation.toys.scores import IDENTITY_ATTRIBUTES
from dreamcache.training.world.identity import is_held_out
from dreamcache.training.world.render import render
from dreamcache.training.world.styles import PLAIN, STYLES, restyle

SIZE = 128


def rendered(cases: list[CaptionCase]) -> NDArray[np.uint8]:
    """What a perfect base would draw."""
    drawn = [
        restyle(render(one.toy, one.scene, np.random.default_rng(one.seed), size=SIZE).image[None], one.style)
        for one in cases
    ]
    return np.concatenate(drawn)


def test_half_of_the_captions_ask_for_a_style_and_each_style_as_often() -> None:
    cases = draw_caption_cases(20)
    assert Counter(case.style for case in cases) == {PLAIN: 20, **dict.fromkeys(STYLES, 5)}
    assert all(is_held_out(case.toy) for case in cases)
    assert [case.seed for case in cases] == list(range(40))
    for case in cases:
        assert case.toy.kind in case.caption
        assert (case.style == PLAIN) or case.caption.endswith(STYLES[case.style].words)


def test_what_a_caption_names_is_read_off_its_words() -> None:
    toy = replace(draw_caption_cases(1)[0].toy, kind="car", body="orange", accent="blue", pattern="dots")
    assert named_in("a dots orange and blue car on the moon", toy) == IDENTITY_ATTRIBUTES
    assert named_in("an orange car on the moon", toy) == ("body",)
    assert named_in("a toy car on the moon", toy) == ()
    said = Counter(len(case.named) for case in draw_caption_cases(300))
    assert said[3] > said[0] > said[1] > 60  # a half, three tenths, two tenths of 600


def test_renders_of_the_captions_score_high_and_those_of_other_captions_low() -> None:
    cases = draw_caption_cases(40)
    judge, pictures = load_classifier(), rendered(cases)
    right = score_captions(judge, pictures, cases)
    assert min(right.kind.mean, right.scene.mean, right.named.mean) > 0.95
    assert right.style.mean > 0.8
    assert set(right.of_each_style) == set(STYLES)
    order = np.roll(np.arange(40), 1)
    wrong = score_captions(judge, pictures[np.concatenate([order, order + 40])], cases)
    assert max(wrong.kind.mean, wrong.scene.mean, wrong.named.mean, wrong.style.mean) < 0.4


def test_pictures_that_say_nothing_are_refused() -> None:
    cases = [case for case in draw_caption_cases(4) if case.style == PLAIN]
    with pytest.raises(ValueError, match="captions with a style, without one"):
        score_captions(load_classifier(), rendered(cases), cases)
