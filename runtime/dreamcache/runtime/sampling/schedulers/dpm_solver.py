"""DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), algorithm 2, the midpoint form; and its SDE form, section 5.

With lambda = log(alpha / sigma) and h its stride, exp(-h) is a ratio of sigma / alpha, so no logarithm
of the last, noise-free point is ever taken.
"""

from __future__ import annotations

import math

import numpy as np

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource, drawn
from dreamcache.runtime.sampling.schedulers.multistep import Array, Multistep
from dreamcache.runtime.sampling.schedulers.sigma_spacing import whole_path


class DPMSolverPlusPlus2M(Multistep):
    """Deterministic, second order: each step also uses the clean latent the step before believed in."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        self._follow(whole_path(config, steps, rounds_cosine=False), 0.0, config.prediction_type)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D."""
        direction = self._direction(prediction, i, sample)
        alpha, ratio = self._alpha(i + 1), float(self._sigmas[i + 1] / self._sigmas[i])
        shrink = ratio * alpha / self._alpha(i)
        return (shrink * sample + alpha * (1 - ratio) * direction).astype(np.float32)

    def _direction(self, prediction: Latent, i: int, sample: Latent) -> Array:
        """D extrapolates x_0 from this step and the one before.

        The first step has none before and the last an infinite h, so both are of first order.
        """
        clean, _ = self._clean_and_noise(prediction, i, sample)
        before = self._remember(i, clean)
        if before is None or self._sigmas[i + 1] == 0:
            return clean
        return np.asarray(clean + (clean - before) * (self._stride(i) / (2 * self._stride(i - 1))))


class DPMSolverPlusPlus2MSDE(DPMSolverPlusPlus2M):
    """Stochastic, second order; the noise is the pictures' own (`sampling.noise.noise_source`), one draw a step."""

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:
        """x_t = (sigma_t / sigma_s) exp(-h) x_s + alpha_t (1 - exp(-2h)) D + sigma_t sqrt(1 - exp(-2h)) z.

        Raises: SettingsError when noise is needed and no source is given.
        """
        direction = self._direction(prediction, i, sample)
        alpha, ratio = self._alpha(i + 1), float(self._sigmas[i + 1] / self._sigmas[i])
        fresh = max(0.0, 1 - ratio**2)  # spaced closely, sigmas may be equal but for rounding
        following = ratio**2 * alpha / self._alpha(i) * sample + alpha * fresh * direction
        if i < len(self.timesteps) - 1:
            sigma = float(self._sigmas[i + 1]) * alpha
            following = following + sigma * math.sqrt(fresh) * drawn(noise, "dpmpp_2m_sde")
        return np.asarray(following, dtype=np.float32)
