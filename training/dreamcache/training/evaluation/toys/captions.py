"""What the base alone draws of a caption: does it show the kind, the scene, the named appearance and the style?

Captions are as the base learned from (`world.captions`), of held-out toys, and no reference is given. Half of them ask
for a style, each style equally often; style is scored there, and everything else in the other half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.progress import track
from dreamcache.training.evaluation.intervals import Interval, cluster_bootstrap
from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier
from dreamcache.training.evaluation.toys.painter import SamplingSettings, paint_batch
from dreamcache.training.evaluation.toys.scores import IDENTITY_ATTRIBUTES
from dreamcache.training.world.captions import draw_words
from dreamcache.training.world.identity import Identity, draw_identity
from dreamcache.training.world.samples import PLACES
from dreamcache.training.world.styles import PLAIN, STYLES


@dataclass(frozen=True)
class CaptionCase:
    """One picture to make. named: the attributes of IDENTITY_ATTRIBUTES that the caption tells."""

    toy: Identity
    scene: str
    style: str
    caption: str
    named: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class CaptionScores:
    """Shares of pictures with the caption's kind, scene and style, and of named attributes that are as named."""

    kind: Interval
    scene: Interval
    named: Interval
    style: Interval
    of_each_style: dict[str, float]


def draw_caption_cases(count: int, seed: int = 2026) -> list[CaptionCase]:
    """`count` captions without a style, then as many with one, the styles by turns."""
    cases = []
    for number in range(2 * count):
        rng = np.random.default_rng([seed, number])
        toy = draw_identity(rng, held_out=True)
        scene = PLACES[rng.integers(len(PLACES))]
        style = PLAIN if number < count else tuple(STYLES)[number % len(STYLES)]
        caption = draw_words(toy, scene, rng, style).caption
        cases.append(CaptionCase(toy, scene, style, caption, named_in(caption, toy), number))
    return cases


def named_in(caption: str, toy: Identity) -> tuple[str, ...]:
    """Which of the toy's scored attributes a caption of it tells."""
    if f"{toy.pattern} {toy.body} and {toy.accent} {toy.kind}" in caption:
        return IDENTITY_ATTRIBUTES
    return ("body",) if f"{toy.body} {toy.kind}" in caption else ()


def paint_captions(
    pipeline: DreamCachePipeline, cases: Sequence[CaptionCase], how: SamplingSettings, batch: int = 50
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, size, size, 3] of the captions alone."""
    pictures = []
    for start in track(range(0, len(cases), batch), "captions"):
        part = cases[start : start + batch]
        pictures.append(
            paint_batch(pipeline, [one.caption for one in part], None, [one.seed for one in part], how)
        )
    return np.concatenate(pictures)


def run_captions(
    pipeline: DreamCachePipeline, count: int, judge: AttributeClassifier, how: SamplingSettings
) -> CaptionScores:
    """Paint `count` captions without a style and as many with one, and score them."""
    cases = draw_caption_cases(count)
    return score_captions(judge, paint_captions(pipeline, cases, how), cases)


def score_captions(
    judge: AttributeClassifier, pictures: NDArray[np.uint8], cases: Sequence[CaptionCase]
) -> CaptionScores:
    """Scores of pictures [n, size, size, 3]; every picture weighs the same, every named attribute in `named`.

    Raises: ValueError where there are no pictures with a style, without one, or with a named attribute.
    """
    found = judge.classify(pictures)
    wanted = {
        **{name: [getattr(case.toy, name) for case in cases] for name in (*IDENTITY_ATTRIBUTES, "kind")},
        "scene": [case.scene for case in cases],
        "style": [case.style for case in cases],
    }
    right = {name: found.are(name, classes).astype(np.float64) for name, classes in wanted.items()}
    styles = np.asarray([case.style for case in cases])
    plain = np.flatnonzero(styles == PLAIN)
    styled = np.flatnonzero(styles != PLAIN)
    named = [right[name][row] for row in plain for name in cases[row].named]
    if not (len(plain) and len(styled) and named):
        raise ValueError("captions with a style, without one, and with a named attribute are expected")
    return CaptionScores(
        kind=_share(right["kind"][plain]),
        scene=_share(right["scene"][plain]),
        named=_share(np.asarray(named)),
        style=_share(right["style"][styled]),
        of_each_style={style: float(right["style"][styles == style].mean()) for style in STYLES},
    )


def _share(values: NDArray[np.float64]) -> Interval:
    return cluster_bootstrap(values, np.arange(len(values)))
