"""Samples: a target picture with its caption, and a reference of each of its toys in another pose.

Sample i of a seed is always the same, whoever draws it and in whatever order; at another size it is the same picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.world.captions import draw_pair_words, draw_words
from dreamcache.training.world.identity import COLOURS, KINDS, PATTERNS, Identity, draw_identity
from dreamcache.training.world.render import SIZE, render, render_pair, render_reference
from dreamcache.training.world.scenes import SCENES, WHITE
from dreamcache.training.world.styles import PLAIN, STYLE_NAMES, STYLES, restyle

SCENE_NAMES = tuple(SCENES)
PLACES = tuple(name for name in SCENE_NAMES if name != WHITE)
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "body": tuple(COLOURS),
    "accent": tuple(COLOURS),
    "pattern": PATTERNS,
    "kind": KINDS,
    "scene": SCENE_NAMES,
    "style": STYLE_NAMES,
}


@dataclass(frozen=True)
class Sample:
    """`target`, `reference`: uint8 [size, size, 3]; `mask`: uint8 [size, size], the toy in the target.

    `caption` mostly names the appearance, `prompt` is the same sentence without it. A style is the target's alone.
    """

    identity: Identity
    scene: str
    style: str
    caption: str
    prompt: str
    target: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    reference: NDArray[np.uint8]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each attribute in the order of ATTRIBUTES, [6]."""
        return _labels(self.identity, self.scene, self.style)


@dataclass(frozen=True)
class PairSample:
    """As `Sample` of two toys, the left one first: `mask` [2, size, size] and `reference` [2, size, size, 3]."""

    identities: tuple[Identity, Identity]
    scene: str
    caption: str
    prompt: str
    target: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    reference: NDArray[np.uint8]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each attribute of each toy, [2, 6]."""
        return np.stack([_labels(toy, self.scene, PLAIN) for toy in self.identities])


def _labels(toy: Identity, scene: str, style: str) -> NDArray[np.int64]:
    values = (toy.body, toy.accent, toy.pattern, toy.kind, scene, style)
    return np.asarray([names.index(v) for names, v in zip(ATTRIBUTES.values(), values, strict=True)])


def draw_sample(seed: int, index: int, *, held_out: bool = False, size: int = SIZE) -> Sample:
    """Sample `index` of the stream `seed`, of seen identities or of held-out ones."""
    return _draw(np.random.default_rng([seed, index, int(held_out)]), held_out, PLAIN, size)


def draw_stylised(seed: int, index: int, *, held_out: bool = False, size: int = SIZE) -> Sample:
    """The same of pictures in a style, each of them equally often."""
    rng = np.random.default_rng([seed, index, int(held_out), 3])
    return _draw(rng, held_out, tuple(STYLES)[rng.integers(len(STYLES))], size)


def _draw(rng: np.random.Generator, held_out: bool, style: str, size: int) -> Sample:
    toy = draw_identity(rng, held_out=held_out)
    scene = SCENE_NAMES[rng.integers(len(SCENE_NAMES))]
    words = draw_words(toy, scene, rng, style)
    target = render(toy, scene, rng, size=size)
    reference = render_reference(toy, rng, size).image
    image = restyle(target.image[None], style)[0]
    return Sample(toy, scene, style, words.caption, words.prompt, image, target.mask, reference)


def draw_two(rng: np.random.Generator, *, held_out: bool) -> tuple[Identity, Identity]:
    """Two toys of different kinds, so that a caption tells them apart."""
    first = draw_identity(rng, held_out=held_out)
    second = draw_identity(rng, held_out=held_out)
    while second.kind == first.kind:
        second = draw_identity(rng, held_out=held_out)
    return first, second


def draw_pair(seed: int, index: int, *, held_out: bool = False, size: int = SIZE) -> PairSample:
    """Sample `index` of the stream `seed` with two toys, of seen identities or of held-out ones."""
    rng = np.random.default_rng([seed, index, int(held_out), 2])
    toys = draw_two(rng, held_out=held_out)
    scene = PLACES[rng.integers(len(PLACES))]
    words = draw_pair_words(toys, scene, rng)
    target = render_pair(toys, scene, rng, size)
    references = np.stack([render_reference(toy, rng, size).image for toy in toys])
    return PairSample(toys, scene, words.caption, words.prompt, target.image, target.masks, references)
