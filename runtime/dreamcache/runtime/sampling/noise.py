"""The noise of pictures and of references: the same seed gives the same picture, and every subject the same cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.sampling import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import NoiseSource
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels

CACHE_NOISE_SEED = 0
"""Seed of the noise that every reference is cached with."""


def noise_source(seed: int, shape: tuple[int, ...], images: int = 1) -> NoiseSource:
    """Draws noise [images, z, h, w]; shape: [1, z, h, w].

    Image i draws from its own generator, seeded with seed + i, so it is the same in any batch.
    """
    generators = [np.random.default_rng(seed + i) for i in range(images)]
    return lambda: np.concatenate(
        [generator.standard_normal(shape, dtype=np.float32) for generator in generators]
    )


def noised_reference(
    latent: NDArray[np.float32], scheduler: SchedulerSpec, timestep: int
) -> NDArray[np.float32]:
    """A reference latent [1, z, h, w] at the caching timestep (DDPM, eq. 4), with the noise every subject shares."""
    signal = float(signal_levels(scheduler)[timestep])
    noise = noise_source(CACHE_NOISE_SEED, latent.shape)()
    return np.float32(np.sqrt(signal)) * latent + np.float32(np.sqrt(1 - signal)) * noise
