"""The PyTorch reference pipeline: the ground truth of every parity check.

Noise is drawn by numpy exactly as the runner draws it (one generator for each image, seeded with seed + i),
so that pictures of the two can be compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreamcache.models.bases.base import MINI_ADAPTERS, Base, load_base
from dreamcache.models.bases.pixels import to_pictures, to_tensor
from dreamcache.models.caching import cache_clean
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.conditioned import Cache, ConditionedUNet
from dreamcache.models.guidance import BRANCHES, GuidanceMode, combine

if TYPE_CHECKING:
    from typing_extensions import Unpack

CACHE_NOISE_SEED = 0
"""Seed of the noise on every cached reference: the same picture gives the same cache."""


Predict = Callable[..., Tensor]
"""`ConditionedUNet.forward`, or what takes its arguments."""


class DenoiseOptions(TypedDict, total=False):
    """Options of `denoise_batch` that a pipeline hands on, named as the runner's.

    Attributes:
        steps: denoising steps, 1 or more; 50 by default.
        guidance_mode: see `dreamcache.models.guidance`; ``dual`` by default.
        guidance_scale: weight of the text; 7.5 by default.
        reference_guidance_scale: weight of the reference, in `dual` and `text_first`; 0.4 by default.
        strength: 0 is the stock model, 1, the default, the adapters as trained.
    """

    steps: int
    guidance_mode: GuidanceMode
    guidance_scale: float
    reference_guidance_scale: float
    strength: float


@dataclass(frozen=True)
class Denoised:
    """One finished step: its index from 0, its timestep, and the latents [b, z, h, w] after it."""

    index: int
    timestep: int
    latent: Tensor


def draw_noise(seed: int, shape: tuple[int, int, int], count: int = 1) -> NDArray[np.float32]:
    """[count, z, h, w] standard normal; image i has its own generator, seeded with seed + i."""
    return np.concatenate(
        [np.random.default_rng(seed + i).standard_normal((1, *shape), dtype=np.float32) for i in range(count)]
    )


@torch.no_grad()
def denoise_batch(
    predict: Predict,
    scheduler: DDIMScheduler,
    latent: Tensor,
    prompted: Tensor,
    null: Tensor,
    cache: Cache | None = None,
    *,
    steps: int = 50,
    guidance_mode: GuidanceMode = "dual",
    guidance_scale: float = 7.5,
    reference_guidance_scale: float = 0.4,
    strength: float = 1.0,
    visible: Mapping[str, Tensor] | None = None,
) -> Iterator[Denoised]:
    """The denoising loop: every sample of a batch with its own prompt, noise and reference, step by step.

    Args:
        predict: the UNet; computes in the dtype of `prompted`, and everything else is of the dtype of `latent`.
        scheduler: the base's.
        latent: [b, z, h, w] noise.
        prompted: [1 or b, n, c] embeddings of the prompts.
        null: [1 or b, n, c] embedding of the null text.
        cache: site name to tokens [1 or b, m, d]; None is the stock model, where `dual` and `text_first` equal
            `classic`.
        steps, guidance_mode, guidance_scale, reference_guidance_scale, strength: see `DenoiseOptions`.
        visible: see `ConditionedUNet.forward`.

    Raises:
        ValueError: fewer than one step, or an unknown guidance mode.
    """
    if steps < 1:
        raise ValueError(f"steps: 1 or more is expected, received {steps}; give a positive number")
    if guidance_mode not in BRANCHES:
        known = ", ".join(BRANCHES)
        raise ValueError(f"guidance mode: one of {known} is expected, received {guidance_mode!r}; choose one")
    if cache is None and guidance_mode != "none":
        guidance_mode = "classic"
    branches, batch = BRANCHES[guidance_mode], latent.shape[0]

    def of_all(rows: Tensor) -> Tensor:
        return rows if rows.shape[0] == 1 else rows.repeat(len(branches), 1, 1)

    text = torch.cat([(prompted if branch.text else null).expand(batch, -1, -1) for branch in branches])
    reference: dict[str, Tensor | dict[str, Tensor]] = {}
    if cache is not None:
        strengths = torch.tensor([strength * branch.reference for branch in branches], device=latent.device)
        reference["cache"] = {name: of_all(tokens) for name, tokens in cache.items()}
        reference["strength"] = strengths.repeat_interleave(batch)
        if visible is not None:
            reference["visible"] = {name: of_all(tokens) for name, tokens in visible.items()}
    scheduler.set_timesteps(steps)
    for index, timestep in enumerate(scheduler.timesteps):
        rows = latent.to(text.dtype).repeat(len(branches), 1, 1, 1)
        predicted = predict(rows, timestep.to(latent.device), text, **reference).to(latent.dtype)
        guided = combine(
            guidance_mode, predicted.chunk(len(branches)), guidance_scale, reference_guidance_scale
        )
        latent = scheduler.step(guided, timestep, latent).prev_sample
        yield Denoised(index, int(timestep), latent)


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
    def resolution(self) -> int:
        """Side of references and pictures in pixels."""
        return self.latent_shape[1] * self.base.vae_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(z, h, w) at the base's own resolution."""
        side = int(self.base.unet.config.sample_size)
        return int(self.base.unet.config.in_channels), side, side

    def cache(self, reference: Image.Image) -> Cache:
        """Cache a prepared reference: site name to tokens [1, m, d].

        Args:
            reference: the subject on white, RGB, `resolution` pixels square, as the runner's `prepare_reference`
                makes it; framed here a second time, PyTorch and a bundle would see two subjects.

        Raises:
            ValueError: another size or mode.
        """
        side = self.resolution
        if reference.size != (side, side) or reference.mode != "RGB":
            raise ValueError(
                f"reference: {side} x {side} px RGB is expected, received {reference.width} x {reference.height} "
                f"{reference.mode}; prepare it with the runner's prepare_reference(picture, size={side}).image"
            )
        return self.cache_latent(self.base.encode_images(self._place(to_tensor(np.asarray(reference)[None]))))

    def cache_latent(self, latent: Tensor) -> Cache:
        """Cache scaled, clean latents of prepared references [b, z, h, w]: site name to tokens [b, m, d]."""
        config = self.conditioned.config
        noise = torch.from_numpy(draw_noise(CACHE_NOISE_SEED, self.latent_shape))
        read = self.base.condition([config.cache_prompt], (self.resolution, self.resolution), null=True)
        unet, sites, scheduler = self.base.unet, self.conditioned.sites, self.base.scheduler
        noise = self._place(noise).expand_as(latent)
        return cache_clean(unet, sites, scheduler, config, latent, noise, read.text, read.added)

    def generate(
        self,
        prompt: str,
        cache: Cache | None = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        **options: Unpack[DenoiseOptions],
    ) -> list[Image.Image]:
        """Pictures of the cached subject; see `denoise` for the arguments."""
        *_, last = self.denoise(prompt, cache, num_images=num_images, seed=seed, **options)
        return [Image.fromarray(picture) for picture in to_pictures(self.base.decode_latents(last.latent))]

    def denoise(
        self,
        prompt: str,
        cache: Cache | None = None,
        *,
        num_images: int = 1,
        seed: int = 0,
        **options: Unpack[DenoiseOptions],
    ) -> Iterator[Denoised]:
        """Denoise step by step with the base's DDIM scheduler.

        Args:
            prompt: text; the empty one is unconditional.
            cache: the subject; None generates with the stock model.
            num_images: how many.
            seed: image i starts from the noise of seed + i.
            options: see `DenoiseOptions`.

        Raises:
            ValueError: fewer than one image or step, or an unknown guidance mode.
        """
        if num_images < 1:
            raise ValueError(
                f"num_images: 1 or more is expected, received {num_images}; give a positive number"
            )
        latent = self._place(torch.from_numpy(draw_noise(seed, self.latent_shape, num_images)))
        null, prompted = self.base.encode_text(["", prompt]).chunk(2)
        return denoise_batch(self.conditioned, self.base.scheduler, latent, prompted, null, cache, **options)

    def _place(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.base.unet.device)
