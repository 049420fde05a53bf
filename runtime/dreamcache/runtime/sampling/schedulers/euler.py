"""Euler's method on the probability-flow ODE: Karras et al. 2022 (arXiv 2206.00364), algorithm 2, no churn.

Samples live in the variance-exploding scale x = x_0 + sigma eps, where dx/dsigma = eps.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource, Scheduler, clean_and_noise
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels, spaced_timesteps, visited


class Euler(Scheduler):
    """Deterministic, first order in sigma."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        count = config.num_train_timesteps
        spaced = spaced_timesteps(config.timestep_spacing, count, steps, config.steps_offset)
        timesteps = visited(spaced, count, config.timestep_spacing)
        levels = signal_levels(config, never_zero=True)
        sigmas = np.interp(timesteps, np.arange(count), np.sqrt((1 - levels) / levels))
        self._prediction_type = config.prediction_type
        self._sigmas: NDArray[np.float64] = np.append(sigmas, 0.0)
        self.timesteps = timesteps.astype(np.float32)
        largest = float(sigmas[0])
        # Leading spacing stops short of pure noise, so its start holds the unit variance of x_0 as well.
        self.init_noise_sigma = math.hypot(largest, 1) if config.timestep_spacing == "leading" else largest

    def scale_input(self, sample: Latent, i: int) -> Latent:
        """The sample in variance-preserving scale, which the denoiser was trained on."""
        return np.asarray(sample / math.hypot(self._sigmas[i], 1), dtype=np.float32)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """x_{i+1} = x_i + (sigma_{i+1} - sigma_i) eps."""
        _, direction = self._clean_and_noise(prediction, i, sample)
        stride = float(self._sigmas[i + 1] - self._sigmas[i])
        return (sample + stride * direction).astype(np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        clean, _ = self._clean_and_noise(prediction, i, sample)
        return clean.astype(np.float32)

    def _clean_and_noise(
        self, prediction: Latent, i: int, sample: Latent
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        total = float(self._sigmas[i] ** 2 + 1)
        preserved = sample.astype(np.float64) / math.sqrt(total)
        return clean_and_noise(prediction, preserved, 1 / total, self._prediction_type)
