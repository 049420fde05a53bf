"""Samples: a target picture with its caption, and a reference of the same toy in another pose.

Sample i of a seed is always the same, whoever draws it and in whatever order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.world.captions import draw_caption
from dreamcache.training.world.identity import COLOURS, KINDS, PATTERNS, Identity, draw_identity
from dreamcache.training.world.render import render, render_reference
from dreamcache.training.world.scenes import SCENES

SCENE_NAMES = tuple(SCENES)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "body": tuple(COLOURS),
    "accent": tuple(COLOURS),
    "pattern": PATTERNS,
    "kind": KINDS,
    "scene": SCENE_NAMES,
}


@dataclass(frozen=True)
class Sample:
    """`target`, `reference`: uint8 [64, 64, 3]; `mask`: uint8 [64, 64], the toy in the target."""

    identity: Identity
    scene: str
    caption: str
    target: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    reference: NDArray[np.uint8]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each attribute in the order of ATTRIBUTES, [5]."""
        toy = self.identity
        values = (toy.body, toy.accent, toy.pattern, toy.kind, self.scene)
        return np.asarray([names.index(v) for names, v in zip(ATTRIBUTES.values(), values, strict=True)])


def draw_sample(seed: int, index: int, *, held_out: bool = False) -> Sample:
    """Sample `index` of the stream `seed`, of seen identities or of held-out ones."""
    rng = np.random.default_rng([seed, index, int(held_out)])
    toy = draw_identity(rng, held_out=held_out)
    scene = SCENE_NAMES[rng.integers(len(SCENE_NAMES))]
    caption = draw_caption(toy, scene, rng)
    target = render(toy, scene, rng)
    return Sample(toy, scene, caption, target.image, target.mask, render_reference(toy, rng).image)
