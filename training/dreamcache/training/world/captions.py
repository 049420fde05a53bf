"""What a caption says: always the kind and the place, the appearance only sometimes.

So the base learns what colour words mean, and a prompt without them leaves something for the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.scenes import SCENES

NAMES_BODY = 0.25
NAMES_ALL = 0.15

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


def plain_caption(toy: Identity, scene: str) -> str:
    """The caption that evaluation uses: kind and place, nothing of the appearance."""
    return f"a toy {toy.kind} {SCENES[scene].words[0]}"


def pair_caption(toys: tuple[Identity, Identity], scene: str) -> str:
    """The same for two toys, the left one first."""
    return f"a toy {toys[0].kind} and a toy {toys[1].kind} {SCENES[scene].words[0]}"


def draw_caption(toy: Identity, scene: str, rng: np.random.Generator) -> str:
    """A caption for the toy in the scene; names the body colour or all attributes only sometimes."""
    return _draw_caption(TEMPLATES, (toy,), scene, rng)


def draw_pair_caption(toys: tuple[Identity, Identity], scene: str, rng: np.random.Generator) -> str:
    """A caption for two toys, the left one first; names the appearance of both only sometimes."""
    return _draw_caption(PAIR_TEMPLATES, toys, scene, rng)


def _draw_caption(
    templates: tuple[str, ...], toys: Sequence[Identity], scene: str, rng: np.random.Generator
) -> str:
    template = templates[rng.integers(len(templates))]
    words = SCENES[scene].words
    place = words[rng.integers(len(words))]
    names = [_draw_name(toy, rng) for toy in toys]
    return template.format(*names, place=place).replace("a orange", "an orange")


def _draw_name(toy: Identity, rng: np.random.Generator) -> str:
    draw = rng.random()
    if draw < NAMES_ALL:
        return f"{toy.pattern} {toy.body} and {toy.accent} {toy.kind}"
    if draw < NAMES_ALL + NAMES_BODY:
        return f"{toy.body} {toy.kind}"
    return toy.kind
