"""What a caption says: always the kind and the place, the appearance in most, a style where there is one.

A *caption* is what the base learns words from. A *prompt* is the same sentence without the appearance, as a
person would give it with a reference: what is left unsaid is what the adapters have to find there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.scenes import SCENES
from dreamcache.training.world.styles import PLAIN, STYLES

NAMES_BODY = 0.2
NAMES_ALL = 0.5

TEMPLATES = (
    "a toy {} {place}",
    "a {} {place}",
    "a picture of a toy {} {place}",
    "{place}, a toy {}",
    "the toy {} is {place}",
)

PAIR_TEMPLATES = (
    "a toy {} and a toy {} {place}",
    "a {} and a {} {place}",
    "{place}, a toy {} and a toy {}",
)


@dataclass(frozen=True)
class Words:
    """A sentence about a picture: with the appearance or a part of it (mostly), and without."""

    caption: str
    prompt: str


def plain_caption(toy: Identity, scene: str, style: str = PLAIN) -> str:
    """The prompt that evaluation uses: kind, place and style, nothing of the appearance."""
    return _styled(f"a toy {toy.kind} {SCENES[scene].words[0]}", style)


def pair_caption(toys: tuple[Identity, Identity], scene: str) -> str:
    """The same for two toys, the left one first."""
    return f"a toy {toys[0].kind} and a toy {toys[1].kind} {SCENES[scene].words[0]}"


def draw_words(toy: Identity, scene: str, rng: np.random.Generator, style: str = PLAIN) -> Words:
    """Words for the toy in the scene, in a style unless it is PLAIN."""
    return _draw_words(TEMPLATES, (toy,), scene, rng, style)


def draw_pair_words(toys: tuple[Identity, Identity], scene: str, rng: np.random.Generator) -> Words:
    """Words for two toys, the left one first; the caption names the appearance of both or of neither."""
    return _draw_words(PAIR_TEMPLATES, toys, scene, rng, PLAIN)


def _draw_words(
    templates: tuple[str, ...], toys: Sequence[Identity], scene: str, rng: np.random.Generator, style: str
) -> Words:
    template = templates[rng.integers(len(templates))]
    words = SCENES[scene].words
    place = words[rng.integers(len(words))]
    draw = rng.random()

    def sentence(names: Sequence[str]) -> str:
        return _styled(template.format(*names, place=place).replace("a orange", "an orange"), style)

    return Words(sentence([_name(toy, draw) for toy in toys]), sentence([toy.kind for toy in toys]))


def _name(toy: Identity, draw: float) -> str:
    if draw < NAMES_ALL:
        return f"{toy.pattern} {toy.body} and {toy.accent} {toy.kind}"
    if draw < NAMES_ALL + NAMES_BODY:
        return f"{toy.body} {toy.kind}"
    return toy.kind


def _styled(sentence: str, style: str) -> str:
    return sentence if style == PLAIN else f"{sentence} {STYLES[style].words}"
