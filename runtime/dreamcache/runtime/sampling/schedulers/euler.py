"""Euler's method on the probability-flow ODE: Karras et al. 2022 (arXiv 2206.00364), algorithm 2, no churn.

Samples live in the variance-exploding scale x = x_0 + sigma eps, where dx/dsigma = eps. The ancestral form goes below
the next sigma and returns to it with fresh noise: the DDPM step (Ho et al. 2020, arXiv 2006.11239) in that scale.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import (
    Latent,
    NoiseSource,
    Scheduler,
    clean_and_noise,
    drawn,
)
from dreamcache.runtime.sampling.schedulers.sigma_spacing import fractional_path

Array = NDArray[np.float64]


class Euler(Scheduler):
    """Deterministic, first order in sigma."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        path = fractional_path(config, steps)
        self._prediction_type = config.prediction_type
        self._sigmas: Array = np.append(path.sigmas, 0.0)
        self.timesteps = path.timesteps.astype(np.float32)
        largest = float(path.sigmas[0])
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

    def _clean_and_noise(self, prediction: Latent, i: int, sample: Latent) -> tuple[Array, Array]:
        total = float(self._sigmas[i] ** 2 + 1)
        preserved = sample.astype(np.float64) / math.sqrt(total)
        return clean_and_noise(prediction, preserved, 1 / total, self._prediction_type)


class EulerAncestral(Euler):
    """Stochastic, first order; the noise is the pictures' own (`sampling.noise.noise_source`), one draw a step."""

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:
        """x_{i+1} = x_i + (sigma_down - sigma_i) eps + sigma_up z, with sigma_down² + sigma_up² = sigma_{i+1}².

        sigma_up = sigma_{i+1} sqrt(sigma_i² - sigma_{i+1}²) / sigma_i; the last step ends at 0 and adds nothing.
        Raises: SettingsError when noise is needed and no source is given.
        """
        _, direction = self._clean_and_noise(prediction, i, sample)
        here, target = float(self._sigmas[i]), float(self._sigmas[i + 1])
        down = target**2 / here
        following = sample + (down - here) * direction
        if i < len(self.timesteps) - 1:
            following = following + target * math.sqrt(max(0.0, 1 - (target / here) ** 2)) * drawn(
                noise, "euler_a"
            )
        return np.asarray(following, dtype=np.float32)
