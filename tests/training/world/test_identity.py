"""Who toys are: their number, and the split by hash."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dreamcache.training.world.identity import (
    COLOURS,
    KINDS,
    PATTERNS,
    Identity,
    count_identities,
    draw_identity,
    is_held_out,
)
from dreamcache.training.world.samples import ATTRIBUTES, draw_sample, draw_stylised
from dreamcache.training.world.styles import PLAIN, STYLE_NAMES, STYLES


def all_identities() -> list[Identity]:
    return [
        Identity(kind, body, accent, pattern, *variation)
        for kind, (body, accent), pattern, variation in itertools.product(
            KINDS, itertools.permutations(COLOURS, 2), PATTERNS, itertools.product(range(3), repeat=3)
        )
    ]


def test_there_are_more_than_a_hundred_thousand_and_a_tenth_is_held_out() -> None:
    toys = all_identities()
    assert len({toy.key for toy in toys}) == len(toys) == count_identities() == 174_960
    assert sum(is_held_out(toy) for toy in toys) == 17_384


@pytest.mark.parametrize(
    ("toy", "held_out"),
    [
        (Identity("fish", "pink", "green", "checked", 2, 1, 1), True),
        (Identity("house", "cyan", "brown", "plain", 2, 1, 2), True),
        (Identity("car", "red", "yellow", "banded", 1, 0, 0), True),
        (Identity("bear", "red", "brown", "two-tone", 0, 2, 2), True),
        (Identity("robot", "red", "orange", "plain", 0, 0, 0), False),
        (Identity("robot", "red", "pink", "plain", 0, 1, 2), False),
        (Identity("robot", "orange", "cyan", "plain", 1, 0, 1), False),
    ],
)
def test_the_split_is_what_it_was_when_the_miniature_was_trained(toy: Identity, held_out: bool) -> None:
    assert is_held_out(toy) is held_out


def test_drawn_toys_come_from_their_side_of_the_split() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        seen, unseen = draw_identity(rng, held_out=False), draw_identity(rng, held_out=True)
        assert not is_held_out(seen)
        assert is_held_out(unseen)
        assert seen.body != seen.accent
        assert unseen.body != unseen.accent


def test_every_value_of_every_attribute_is_drawn() -> None:
    rng = np.random.default_rng(1)
    toys = [draw_identity(rng, held_out=False) for _ in range(400)]
    assert {toy.kind for toy in toys} == set(KINDS)
    assert {toy.body for toy in toys} == {toy.accent for toy in toys} == set(COLOURS)
    assert {toy.pattern for toy in toys} == set(PATTERNS)
    for part in ("build", "top", "trim"):
        assert {getattr(toy, part) for toy in toys} == {0, 1, 2}


def test_labels_are_the_sample_s_own_attributes() -> None:
    sample = draw_sample(0, 5)
    named = [names[label] for names, label in zip(ATTRIBUTES.values(), sample.labels, strict=True)]
    toy = sample.identity
    assert named == [toy.body, toy.accent, toy.pattern, toy.kind, sample.scene, PLAIN]
    styled = draw_stylised(0, 5)
    assert styled.style in STYLES
    assert STYLE_NAMES[styled.labels[-1]] == styled.style
