"""The PyTorch reference pipeline: the ground truth of every parity check.

Noise is drawn by numpy exactly as the runner draws it (one generator for each image, seeded with seed + i),
so that pictures of the two can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreamcache.models.bases.base import MINI_ADAPTERS, Base, load_base
from dreamcache.models.caching import cache_clean
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.conditioned import Cache, ConditionedUNet
from dreamcache.models.guidance import BRANCHES, GuidanceMode, combine

CACHE_NOISE_SEED = 0
"""Seed of the noise on every cached reference: the same picture gives the same cache."""


class Denoised(NamedTuple):
    """One finished step: its number from 0, its timestep, and the latents [b, z, h, w] after it."""

    number: int
    timestep: int
    latent: Tensor


def draw_noise(seed: int, shape: tuple[int, int, int], count: int = 1) -> NDArray[np.float32]:
    """[count, z, h, w] standard normal; image i has its own generator, seeded with seed + i."""
    return np.concatenate(
        [np.random.default_rng(seed + i).standard_normal((1, *shape), dtype=np.float32) for i in range(count)]
    )


def to_pixels(picture: Image.Image, mask: Image.Image | None, side: int) -> Tensor:
    """[1, 3, side, side] in -1..1: the subject on white, padded to a square and scaled.

    Args:
        picture: any mode.
        mask: same size as the picture, white where the subject is; None keeps everything.
        side: pixels.
    """
    rgb = picture.convert("RGB")
    if mask is not None:
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), mask.convert("L"))
    longest = max(rgb.size)
    square = Image.new("RGB", (longest, longest), "white")
    square.paste(rgb, ((longest - rgb.width) // 2, (longest - rgb.height) // 2))
    scaled = square.resize((side, side), Image.Resampling.LANCZOS) if longest != side else square
    values = np.asarray(scaled, dtype=np.float32) / 127.5 - 1.0
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


class DreamCachePipeline:
    """One reference in, pictures of its subject out.

    Args:
        base: the text-to-image model.
        conditioned: its UNet with adapters.
    """

    def __init__(self, base: Base, conditioned: ConditionedUNet) -> None:
        self.base = base
        self.conditioned = conditioned.eval()

    @classmethod
    def load(
        cls, source: str = "mini", adapters: str | os.PathLike[str] | None = None, device: str = "cpu"
    ) -> DreamCachePipeline:
        """Load a base and its adapters; for ``mini`` the shipped ones unless others are named.

        Raises:
            AdapterError: the adapters do not fit the base.
            FileNotFoundError: no such base, or no adapters named for a base that ships none.
        """
        base = load_base(source, device)
        if adapters is None:
            if source != "mini":
                raise FileNotFoundError(f"no adapters named for the base {source!r}; give an adapters file")
            adapters = MINI_ADAPTERS
        return cls(base, load_adapters(adapters, base.unet))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(z, h, w) at the base's own resolution."""
        side = int(self.base.unet.config.sample_size)
        return int(self.base.unet.config.in_channels), side, side

    def cache(self, picture: Image.Image, mask: Image.Image | None = None) -> Cache:
        """Cache a reference picture: site name to tokens [1, m, d]."""
        side = self.latent_shape[1] * self.base.vae_factor
        return self.cache_latent(self.base.encode_images(self._place(to_pixels(picture, mask, side))))

    def cache_latent(self, latent: Tensor) -> Cache:
        """Cache a scaled, clean reference latent [1, z, h, w]."""
        config = self.conditioned.config
        noise = torch.from_numpy(
            draw_noise(CACHE_NOISE_SEED, cast(tuple[int, int, int], tuple(latent.shape[1:])))
        )
        text = self.base.encode_text([config.cache_prompt])
        unet, sites, scheduler = self.base.unet, self.conditioned.sites, self.base.scheduler
        return cache_clean(unet, sites, scheduler, config, latent, self._place(noise), text)

    def generate(
        self,
        prompt: str,
        cache: Cache | None,
        steps: int = 50,
        seed: int = 0,
        guidance_mode: GuidanceMode = "dual",
        guidance_scale: float = 7.5,
        reference_guidance_scale: float = 0.4,
        strength: float = 1.0,
        images: int = 1,
    ) -> list[Image.Image]:
        """Pictures of the cached subject; see `denoise` for the arguments."""
        latent: Tensor | None = None
        for step in self.denoise(
            prompt,
            cache,
            steps,
            seed,
            guidance_mode,
            guidance_scale,
            reference_guidance_scale,
            strength,
            images,
        ):
            latent = step.latent
        assert latent is not None
        pixels = self.base.decode_latents(latent).clamp(-1.0, 1.0)
        values = ((pixels + 1.0) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(value) for value in values]

    @torch.no_grad()
    def denoise(
        self,
        prompt: str,
        cache: Cache | None,
        steps: int = 50,
        seed: int = 0,
        guidance_mode: GuidanceMode = "dual",
        guidance_scale: float = 7.5,
        reference_guidance_scale: float = 0.4,
        strength: float = 1.0,
        images: int = 1,
    ) -> Iterator[Denoised]:
        """Denoise step by step with the base's DDIM scheduler.

        Args:
            prompt: text; the empty one is unconditional.
            cache: the subject; None generates with the stock model (then `dual` and `text_first` equal `classic`).
            steps: at least 1.
            seed: image i starts from the noise of seed + i.
            guidance_mode: see `dreamcache.models.guidance`.
            guidance_scale: weight of the text.
            reference_guidance_scale: weight of the reference, in `dual` and `text_first`.
            strength: 0 is the stock model, 1 the adapters as trained.
            images: how many.

        Raises:
            ValueError: fewer than one step or image, or an unknown guidance mode.
        """
        if steps < 1 or images < 1:
            raise ValueError(f"steps is {steps} and images is {images}; give 1 or more of each")
        if guidance_mode not in BRANCHES:
            raise ValueError(f"guidance mode is {guidance_mode!r}; choose one of {', '.join(BRANCHES)}")
        scheduler = self.base.scheduler
        scheduler.set_timesteps(steps)
        latent = self._place(torch.from_numpy(draw_noise(seed, self.latent_shape, images)))
        branches = BRANCHES[guidance_mode]
        null, prompted = self.base.encode_text(["", prompt])
        text = torch.stack([prompted if branch.text else null for branch in branches])
        text = text.repeat_interleave(images, dim=0)
        strengths = torch.tensor([strength if branch.reference else 0.0 for branch in branches])
        strengths = self._place(strengths.repeat_interleave(images))
        for number, timestep in enumerate(scheduler.timesteps):
            batch = scheduler.scale_model_input(latent, timestep).repeat(len(branches), 1, 1, 1)
            predicted = self.conditioned(batch, timestep, text, cache, None if cache is None else strengths)
            joined = combine(
                guidance_mode, predicted.chunk(len(branches)), guidance_scale, reference_guidance_scale
            )
            latent = scheduler.step(joined, timestep, latent).prev_sample
            yield Denoised(number, int(timestep), latent)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.base.unet.device)
