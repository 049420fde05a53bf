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

    index: from 0. total: the number of steps. timestep: of the step's first denoiser call (Heun's method makes two).
    latent: the trajectory after this step, [n, z, h, w].
    preview: the clean latent that the denoiser believes in, [n, z, h, w], for `Pipeline.decode`.
    predictions: of the last call, one [n, z, h, w] for each branch of the guidance.
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
    """The steps of one batch of pictures; noise: the start, and what stochastic samplers add between steps.

    Raises: BundleError when a prediction is not finite.
    """
    latent = (noise() * np.float32(scheduler.init_noise_sigma)).astype(np.float32)
    calls = len(scheduler.timesteps)
    total = scheduler.step_of(calls - 1) + 1
    began = float(scheduler.timesteps[0])
    for call, timestep in enumerate(scheduler.timesteps):
        index = scheduler.step_of(call)
        branches = guidance.branches_at(index, total, denoiser.has_reference)
        predictions = denoiser.predict(scheduler.scale_input(latent, call), float(timestep), branches, index)
        combined = guidance.combine(predictions)
        preview = scheduler.predicted_original(combined, call, latent)
        latent = scheduler.step(combined, call, latent, noise)
        if call + 1 == calls or scheduler.step_of(call + 1) > index:
            yield Step(index, total, began, latent, preview, tuple(predictions))
            began = float(scheduler.timesteps[min(call + 1, calls - 1)])
