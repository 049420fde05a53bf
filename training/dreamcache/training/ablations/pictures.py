"""The pictures of a row, and what the judge finds on them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dreamcache.models.caching import join_caches
from dreamcache.models.conditioned import Cache
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.progress import track
from dreamcache.training.ablations.tables import AblationRow
from dreamcache.training.adapters.preset import PRESETS
from dreamcache.training.device import fast_in_bf16
from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier
from dreamcache.training.evaluation.toys.benchmark import ToyCase
from dreamcache.training.evaluation.toys.painter import (
    SamplingSettings,
    cache_batch,
    paint_batch,
)
from dreamcache.training.evaluation.toys.pairs import PairCase, paint_pairs, score_pairs
from dreamcache.training.evaluation.toys.scores import score
from dreamcache.training.world.captions import plain_caption
from dreamcache.training.world.identity import Identity
from dreamcache.training.world.render import SIZE, render_reference
from dreamcache.training.world.styles import PLAIN, STYLES, restyle

BATCH = 50


def sampling(row: AblationRow, steps: int, bf16: bool = False) -> SamplingSettings:
    """How a row's pictures are sampled: as the miniature's preset recommends, but for what the row changes."""
    preset = PRESETS["miniature"]
    how = SamplingSettings(
        steps, preset.guidance_mode, preset.guidance, preset.reference_guidance, row.strength, bf16
    )
    if row.guidance is None:
        return how
    mode, text, reference = row.guidance.mode, row.guidance.text, row.guidance.reference
    return replace(how, mode=mode, guidance_scale=text, reference_guidance_scale=reference)


def prompt_styles(row: AblationRow, cases: Sequence[ToyCase]) -> list[str]:
    """The style that each case's prompt asks for: the same for all pictures of a toy."""
    if not row.prompt_styles:
        return [PLAIN] * len(cases)
    toys = list(dict.fromkeys(case.toy.key for case in cases))
    return [tuple(STYLES)[toys.index(case.toy.key) % len(STYLES)] for case in cases]


def picture_toys(
    pipeline: DreamCachePipeline,
    judge: AttributeClassifier,
    row: AblationRow,
    cases: Sequence[ToyCase],
    steps: int,
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pictures uint8 [n, size, size, 3] of one toy each, and their scores."""
    styles = prompt_styles(row, cases)
    pictures = _paint(pipeline, row, cases, styles, sampling(row, steps, _fast(pipeline)))
    scores = score(
        judge,
        pictures,
        [case.toy for case in cases],
        [case.scene for case in cases],
        np.stack([case.reference for case in cases]),
        np.stack([case.mask for case in cases]),
        styles,
    )
    return pictures, asdict(scores)


def picture_pairs(
    pipeline: DreamCachePipeline,
    judge: AttributeClassifier,
    row: AblationRow,
    cases: Sequence[PairCase],
    steps: int,
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pictures uint8 [n, size, size, 3] of two toys each, and their scores. Raises: ValueError for a row of one toy."""
    if row.pair is None:
        raise ValueError(f"{row.name} is a row of one toy")
    pictures = paint_pairs(pipeline, cases, row.pair, sampling(row, steps, _fast(pipeline)))
    return pictures, asdict(score_pairs(judge, pictures, cases))


def _fast(pipeline: DreamCachePipeline) -> bool:
    return fast_in_bf16(pipeline.base.unet.device)


def _paint(
    pipeline: DreamCachePipeline,
    row: AblationRow,
    cases: Sequence[ToyCase],
    styles: Sequence[str],
    how: SamplingSettings,
) -> NDArray[np.uint8]:
    pictures = []
    for start in track(range(0, len(cases), BATCH), row.name):
        part = cases[start : start + BATCH]
        cache = None if row.training is None else _cache(pipeline, row, part)
        visible = _foreground(cache, part) if cache is not None and row.foreground else None
        asked = styles[start : start + BATCH]
        prompts = [plain_caption(c.toy, c.scene, style) for c, style in zip(part, asked, strict=True)]
        pictures.append(paint_batch(pipeline, prompts, cache, [c.seed for c in part], how, visible))
    return np.concatenate(pictures)


def _cache(pipeline: DreamCachePipeline, row: AblationRow, cases: Sequence[ToyCase]) -> Cache:
    views = [np.stack([case.reference for case in cases])]
    others = [other_views(case.toy, row.references - 1, len(case.reference)) for case in cases]
    views += [np.stack([seen[i] for seen in others]) for i in range(row.references - 1)]
    return join_caches([cache_batch(pipeline, restyle(view, row.style)) for view in views])


def other_views(toy: Identity, count: int, size: int = SIZE) -> list[NDArray[np.uint8]]:
    """Further references of a toy, uint8 [size, size, 3], in other poses; the same for every picture of it."""
    rng = np.random.default_rng([zlib.crc32(toy.key.encode()), 1])
    return [render_reference(toy, rng, size).image for _ in range(count)]


def _foreground(cache: Cache, cases: Sequence[ToyCase]) -> dict[str, Tensor]:
    """Which tokens hold a part of the toy: site to bool [n, 1, m]."""
    masks = torch.from_numpy(np.stack([case.mask for case in cases]))[:, None]
    sides = {name: round(tokens.shape[1] ** 0.5) for name, tokens in cache.items()}
    return {name: functional.adaptive_avg_pool2d(masks, side).flatten(2) > 0 for name, side in sides.items()}
