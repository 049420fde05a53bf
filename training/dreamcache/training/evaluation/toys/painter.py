"""Pictures for the benchmark from the PyTorch reference, many toys in one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.models.caching import cache_clean
from dreamcache.models.checkpoint import read_adapters
from dreamcache.models.conditioned import Cache
from dreamcache.models.guidance import BRANCHES, GuidanceMode, combine
from dreamcache.models.pipeline import CACHE_NOISE_SEED, DreamCachePipeline, draw_noise
from dreamcache.runtime.progress import track
from dreamcache.training.evaluation.toys.benchmark import Condition, ToyCase
from dreamcache.training.pixels import to_pictures, to_tensor


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are made; see `dreamcache.models.guidance` for modes and scales."""

    steps: int = 20
    mode: GuidanceMode = "dual"
    guidance_scale: float = 3.0
    reference_guidance_scale: float = 1.0
    strength: float = 1.0


def recommended(adapters: Path) -> SamplingSettings:
    """What the adapters' metadata recommends under ``guidance``; else the defaults of `SamplingSettings`."""
    _, metadata = read_adapters(adapters)
    known = json.loads(metadata.get("guidance", "{}"))
    return SamplingSettings(
        steps=known.get("steps", SamplingSettings.steps),
        mode=known.get("mode", SamplingSettings.mode),
        guidance_scale=known.get("guidance_scale", SamplingSettings.guidance_scale),
        reference_guidance_scale=known.get(
            "reference_guidance_scale", SamplingSettings.reference_guidance_scale
        ),
    )


@torch.no_grad()
def cache_batch(pipeline: DreamCachePipeline, references: NDArray[np.uint8]) -> Cache:
    """The caches of references uint8 [n, 64, 64, 3]."""
    base, config = pipeline.base, pipeline.conditioned.config
    clean = base.encode_images(to_tensor(references))
    noise = torch.from_numpy(draw_noise(CACHE_NOISE_SEED, pipeline.latent_shape)).expand_as(clean)
    text = base.encode_text([config.cache_prompt])
    return cache_clean(base.unet, pipeline.conditioned.sites, base.scheduler, config, clean, noise, text)


@torch.no_grad()
def paint_batch(
    pipeline: DreamCachePipeline,
    prompts: list[str],
    cache: Cache | None,
    seeds: list[int],
    how: SamplingSettings,
    visible: Mapping[str, Tensor] | None = None,
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, 64, 64, 3]: prompts[i] with the i-th row of the cache; without one where it is None.

    visible: site to bool [n, 1, m], which of its cached tokens a picture may read; None is all.
    """
    base, count = pipeline.base, len(prompts)
    if cache is None and how.mode != "none":
        # without a reference every guidance is classic guidance; two predictions do
        how = replace(how, mode="classic")
    branches = BRANCHES[how.mode]
    text = torch.cat([base.encode_text(prompts if b.text else [""] * count) for b in branches])
    strength = torch.cat([torch.full((count,), how.strength * b.reference) for b in branches])
    repeated = (
        None
        if cache is None
        else {name: tokens.repeat(len(branches), 1, 1) for name, tokens in cache.items()}
    )
    seen = None if visible is None else {k: v.repeat(len(branches), 1, 1) for k, v in visible.items()}
    latent = torch.from_numpy(np.concatenate([draw_noise(seed, pipeline.latent_shape) for seed in seeds]))
    base.scheduler.set_timesteps(how.steps)
    for timestep in base.scheduler.timesteps:
        batch = latent.repeat(len(branches), 1, 1, 1)
        predicted = pipeline.conditioned(
            batch, timestep, text, repeated, None if repeated is None else strength, visible=seen
        )
        joined = combine(
            how.mode, predicted.chunk(len(branches)), how.guidance_scale, how.reference_guidance_scale
        )
        latent = base.scheduler.step(joined, timestep, latent).prev_sample
    return to_pictures(base.decode_latents(latent))


@dataclass(frozen=True)
class TorchPainter:
    """Paints benchmark cases with the PyTorch reference pipeline."""

    pipeline: DreamCachePipeline
    how: SamplingSettings
    batch: int = 50

    def __call__(self, cases: list[ToyCase], condition: Condition) -> NDArray[np.uint8]:
        """See `benchmark.Painter`."""
        pictures = []
        for start in track(range(0, len(cases), self.batch), condition):
            part = cases[start : start + self.batch]
            references = {
                "text_only": None,
                "dreamcache": np.stack([case.reference for case in part]),
                "wrong_cache": np.stack([case.wrong_reference for case in part]),
            }[condition]
            cache = None if references is None else cache_batch(self.pipeline, references)
            pictures.append(
                paint_batch(self.pipeline, [c.prompt for c in part], cache, [c.seed for c in part], self.how)
            )
        return np.concatenate(pictures)
