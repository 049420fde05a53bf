"""What a caption says: always the kind and the place, the appearance only sometimes.

So the base learns what colour words mean, and a prompt without them leaves something for the reference.
"""

from __future__ import annotations

import numpy as np

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.scenes import SCENES

NAMES_BODY = 0.25
NAMES_ALL = 0.15

TEMPLATES = (
    "a toy {toy} {place}",
    "a {toy} {place}",
    "a picture of a toy {toy} {place}",
    "{place}, a toy {toy}",
    "the toy {toy} is {place}",
)


def plain_caption(toy: Identity, scene: str) -> str:
    """The caption that evaluation uses: kind and place, nothing of the appearance."""
    return f"a toy {toy.kind} {SCENES[scene].words[0]}"


def draw_caption(toy: Identity, scene: str, rng: np.random.Generator) -> str:
    """A caption for the toy in the scene; names the body colour or all attributes only sometimes."""
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    words = SCENES[scene].words
    place = words[rng.integers(len(words))]
    draw = rng.random()
    if draw < NAMES_ALL:
        name = f"{toy.pattern} {toy.body} and {toy.accent} {toy.kind}"
    elif draw < NAMES_ALL + NAMES_BODY:
        name = f"{toy.body} {toy.kind}"
    else:
        name = toy.kind
    return template.format(toy=name, place=place).replace("a orange", "an orange")
