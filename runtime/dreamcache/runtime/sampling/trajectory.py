"""The denoising loop: from noise to a clean latent, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dreamcache.runtime.sampling.denoiser import Denoiser, Latent
from dreamcache.runtime.sampling.guidance import Guidance
from dreamcache.runtime.sampling.schedulers.base import NoiseSource, Scheduler


@dataclass(frozen=True)
class Step:
    """One finished denoising step.

    index: from 0. total: the number of steps. latent: the trajectory after this step, [n, z, h, w].
    preview: the clean latent that the denoiser believes in, [n, z, h, w], for `Pipeline.decode`.
    predictions: the denoiser's, one [n, z, h, w] for each branch of the guidance.
    """

    index: int
    total: int
    timestep: float
    latent: Latent
    preview: Latent
    predictions: tuple[Latent, ...]


def trajectory(
    denoiser: Denoiser, scheduler: Scheduler, guidance: Guidance, noise: NoiseSource
) -> Iterator[Step]:
    """The steps of one batch of pictures; noise: the start, and what LCM adds between its steps.

    Raises: BundleError when a prediction is not finite.
    """
    latent = (noise() * np.float32(scheduler.init_noise_sigma)).astype(np.float32)
    total = len(scheduler.timesteps)
    for index, timestep in enumerate(scheduler.timesteps):
        branches = guidance.branches_at(index, total, denoiser.has_reference)
        predictions = denoiser.predict(scheduler.scale_input(latent, index), float(timestep), branches, index)
        combined = guidance.combine(predictions)
        preview = scheduler.predicted_original(combined, index, latent)
        latent = scheduler.step(combined, index, latent, noise)
        yield Step(index, total, float(timestep), latent, preview, tuple(predictions))
