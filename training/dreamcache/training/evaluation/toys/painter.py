"""Pictures for the benchmark from the PyTorch reference, many toys in one batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreamcache.models.bases.base import MINI_ADAPTERS
from dreamcache.models.bases.parts.segmenter import MEAN, STD, TrainedSegmenter, load_segmenter
from dreamcache.models.bases.pixels import to_pictures, to_tensor
from dreamcache.models.checkpoint import read_adapters
from dreamcache.models.conditioned import Cache
from dreamcache.models.guidance import GuidanceMode
from dreamcache.models.pipeline import DreamCachePipeline, denoise_batch, draw_noise
from dreamcache.runtime.progress import track
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.reference.segmenter import fed_picture, subject_of
from dreamcache.runtime.settings import Options
from dreamcache.training.evaluation.toys.benchmark import Condition, ToyCase


@dataclass(frozen=True)
class SamplingSettings:
    """How pictures are made; see `dreamcache.models.guidance` for modes and scales. bf16: products in bfloat16."""

    steps: int = 20
    mode: GuidanceMode = "dual"
    guidance_scale: float = 3.0
    reference_guidance_scale: float = 1.0
    strength: float = 1.0
    bf16: bool = False


def sampling_settings(adapters: Path | None, options: Options) -> SamplingSettings:
    """What was asked for, over what the adapters' metadata recommends under ``guidance``.

    adapters: None is the miniature's.
    """
    _, metadata = read_adapters(MINI_ADAPTERS if adapters is None else adapters)
    known = json.loads(metadata.get("guidance", "{}"))
    asked = {
        "steps": options.get("steps"),
        "mode": options.get("guidance_mode"),
        "guidance_scale": options.get("guidance_scale"),
        "reference_guidance_scale": options.get("reference_guidance_scale"),
    }
    recommended = {name: known[name] for name in asked if name in known}
    return SamplingSettings(
        **recommended | {name: value for name, value in asked.items() if value is not None}
    )


def cache_batch(pipeline: DreamCachePipeline, references: NDArray[np.uint8]) -> Cache:
    """The caches of prepared references uint8 [n, size, size, 3]."""
    return pipeline.cache_latent(
        pipeline.base.encode_images(to_tensor(references).to(pipeline.base.unet.device))
    )


def paint_batch(
    pipeline: DreamCachePipeline,
    prompts: list[str],
    cache: Cache | None,
    seeds: list[int],
    how: SamplingSettings,
    visible: Mapping[str, Tensor] | None = None,
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, size, size, 3]: prompts[i] with the i-th row of the cache; without one where it is None.

    visible: site to bool [n, 1, m], which of its cached tokens a picture may read; None is all.
    """
    base = pipeline.base
    latent = np.concatenate([draw_noise(seed, pipeline.latent_shape) for seed in seeds])
    device = base.unet.device
    with torch.autocast(device.type, torch.bfloat16, enabled=how.bf16):
        *_, last = denoise_batch(
            pipeline.conditioned,
            base.scheduler,
            torch.from_numpy(latent).to(device),
            base.encode_text(prompts),
            base.encode_text([""]),
            cache,
            steps=how.steps,
            guidance_mode=how.mode,
            guidance_scale=how.guidance_scale,
            reference_guidance_scale=how.reference_guidance_scale,
            strength=how.strength,
            visible=visible,
        )
        return to_pictures(base.decode_latents(last.latent))


@dataclass(frozen=True)
class TorchPainter:
    """Paints benchmark cases with the PyTorch reference pipeline."""

    pipeline: DreamCachePipeline
    how: SamplingSettings
    batch: int = 50

    @property
    def size(self) -> int:
        """Of the pictures, in pixels."""
        return self.pipeline.resolution

    def __call__(self, cases: list[ToyCase], condition: Condition) -> NDArray[np.uint8]:
        """See `benchmark.Painter`."""
        pictures = []
        for start in track(range(0, len(cases), self.batch), condition):
            part = cases[start : start + self.batch]
            references = [one for case in part if (one := case.reference_of(condition)) is not None]
            cache = cache_batch(self.pipeline, self._prepared(references)) if references else None
            pictures.append(
                paint_batch(self.pipeline, [c.prompt for c in part], cache, [c.seed for c in part], self.how)
            )
        return np.concatenate(pictures)

    @property
    def segments(self) -> bool:
        """Whether the base cuts subjects out of scenes."""
        return self._segmenter is not None

    @cached_property
    def _segmenter(self) -> TrainedSegmenter | None:
        return load_segmenter(self.pipeline.base.path)

    def _prepared(self, references: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Cut out and framed by the runner, so that a bundle of the same weights sees the same subjects."""
        side = self.pipeline.resolution
        segment = self._find_subject if self.segments else None
        pictures = [
            prepare_reference(Image.fromarray(one), size=side, segment=segment).image for one in references
        ]
        return np.stack([np.asarray(picture) for picture in pictures])

    @torch.no_grad()
    def _find_subject(self, picture: Image.Image) -> Image.Image | None:
        """See `prepare.Segment`."""
        assert self._segmenter is not None
        side = self._segmenter.size
        found = self._segmenter.module(torch.from_numpy(fed_picture(picture, (side, side), MEAN, STD)))
        return subject_of(found[0, 0].numpy(), picture.size)
