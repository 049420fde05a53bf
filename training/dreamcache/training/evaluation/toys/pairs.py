"""Two subjects in one picture: held-out pairs of toys, each judged in its own half.

The first toy that a prompt names stands on the left, as in training. A half is cut out and enlarged to the size that
the judge knows. What is asked: does each toy look like its own reference, and does it look like the other's?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.models.caching import join_caches
from dreamcache.models.conditioned import Cache
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.progress import track
from dreamcache.training.evaluation.intervals import Interval, cluster_bootstrap
from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier
from dreamcache.training.evaluation.toys.halves import halves
from dreamcache.training.evaluation.toys.painter import SamplingSettings, cache_batch, paint_batch
from dreamcache.training.evaluation.toys.scores import IDENTITY_ATTRIBUTES
from dreamcache.training.world.captions import pair_caption
from dreamcache.training.world.identity import Identity
from dreamcache.training.world.render import SIZE, render_reference
from dreamcache.training.world.samples import ATTRIBUTES, PLACES, draw_two

PairCondition = Literal["text_only", "joined", "masked", "left_alone"]
PAIR_CONDITIONS: tuple[PairCondition, ...] = get_args(PairCondition)


@dataclass(frozen=True)
class PairCase:
    """One picture to make: `references` uint8 [2, size, size, 3], the left toy's first."""

    toys: tuple[Identity, Identity]
    scene: str
    prompt: str
    seed: int
    references: NDArray[np.uint8]


@dataclass(frozen=True)
class PairScores:
    """Shares over both toys of all pictures.

    own: scored attributes that are as on the toy's reference. other: of those in which the two references differ,
    the ones that are as on the other toy's. kind, scene: as the prompt says.
    """

    own: Interval
    other: Interval
    kind: Interval
    scene: Interval
    sides: tuple[float, float]


def draw_pair_cases(count: int, seed: int = 2025, size: int = SIZE) -> list[PairCase]:
    """Pairs of held-out toys of different kinds, each pair in one scene."""
    cases = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        toys = draw_two(rng, held_out=True)
        scene = PLACES[rng.integers(len(PLACES))]
        references = np.stack([render_reference(toy, rng, size).image for toy in toys])
        cases.append(PairCase(toys, scene, pair_caption(toys, scene), number, references))
    return cases


def paint_pairs(
    pipeline: DreamCachePipeline,
    cases: Sequence[PairCase],
    condition: PairCondition,
    how: SamplingSettings,
    batch: int = 50,
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, size, size, 3].

    condition: without a reference; with both caches joined; joined, where tokens of the left half of the picture read
    the left toy's alone and those of the right half the right one's; or with the left toy's cache alone.
    """
    pictures = []
    for start in track(range(0, len(cases), batch), condition.replace("_", " ")):
        part = cases[start : start + batch]
        cache: Cache | None = None
        visible: dict[str, Tensor] | None = None
        if condition != "text_only":
            views = [np.stack([case.references[side] for case in part]) for side in range(2)]
            count = 1 if condition == "left_alone" else 2
            cache = join_caches([cache_batch(pipeline, view) for view in views[:count]])
            visible = own_halves(cache, len(part)) if condition == "masked" else None
        prompts, seeds = [case.prompt for case in part], [case.seed for case in part]
        pictures.append(paint_batch(pipeline, prompts, cache, seeds, how, visible))
    return np.concatenate(pictures)


def run_pairs(
    pipeline: DreamCachePipeline, count: int, judge: AttributeClassifier, how: SamplingSettings
) -> dict[PairCondition, PairScores]:
    """Paint `count` pairs of held-out toys under every condition and score them."""
    cases = draw_pair_cases(count, size=judge.size)
    return {
        condition: score_pairs(judge, paint_pairs(pipeline, cases, condition, how), cases)
        for condition in PAIR_CONDITIONS
    }


def own_halves(cache: Cache, batch: int) -> dict[str, Tensor]:
    """Which tokens of two joined caches a picture's tokens read, by their half: site to bool [batch, n, 2n]."""
    found = {}
    for name, tokens in cache.items():
        count = tokens.shape[1] // 2
        side = round(count**0.5)
        right = torch.arange(count, device=tokens.device) % side >= side // 2
        of_right = torch.arange(2 * count, device=tokens.device) >= count
        found[name] = (right[:, None] == of_right[None]).expand(batch, -1, -1)
    return found


def score_pairs(
    judge: AttributeClassifier, pictures: NDArray[np.uint8], cases: Sequence[PairCase]
) -> PairScores:
    """Scores of pictures [n, size, size, 3]; every picture weighs the same."""
    count = len(cases)
    verdict = judge.classify(halves(pictures).reshape(-1, *pictures.shape[1:]))
    found = {name: classes.reshape(count, 2) for name, classes in verdict.classes.items()}
    own, other, differs = [], [], []
    for name in IDENTITY_ATTRIBUTES:
        names = ATTRIBUTES[name]
        truth = np.asarray([[names.index(getattr(toy, name)) for toy in case.toys] for case in cases])
        swapped = truth[:, ::-1]
        own.append(found[name] == truth)
        other.append((found[name] == swapped) & (truth != swapped))
        differs.append(truth != swapped)
    kinds = ATTRIBUTES["kind"]
    kind = found["kind"] == np.asarray([[kinds.index(toy.kind) for toy in case.toys] for case in cases])
    scene = judge.classify(pictures).are("scene", [case.scene for case in cases])
    right = np.mean(own, axis=0)
    groups = np.arange(count)
    # A pair that shares every attribute cannot be confused, and says nothing.
    different = np.sum(differs, axis=(0, 2))
    telling = different > 0
    confused = np.sum(other, axis=(0, 2))[telling] / different[telling]
    return PairScores(
        own=cluster_bootstrap(right.mean(1), groups),
        other=cluster_bootstrap(confused, groups[telling]),
        kind=cluster_bootstrap(kind.mean(1), groups),
        scene=cluster_bootstrap(np.asarray(scene, np.float64), groups),
        sides=(float(right[:, 0].mean()), float(right[:, 1].mean())),
    )
