"""DPM-Solver++(2M): Lu et al. 2022 (arXiv 2211.01095), algorithm 2, the midpoint form.

With lambda = log(alpha / sigma) and h its stride, exp(-h) is a ratio of sigma / alpha, so no logarithm
of the last, noise-free point is ever taken.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource, Scheduler, clean_and_noise
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels, spaced_timesteps, visited


class DPMSolverPlusPlus2M(Scheduler):
    """Deterministic, second order: each step also uses the clean latent the step before believed in."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        count = config.num_train_timesteps
        timesteps = visited(_timesteps(config, steps), count, config.timestep_spacing).astype(np.int64)
        levels = signal_levels(config, never_zero=True)[timesteps]
        self._prediction_type = config.prediction_type
        self._signal: NDArray[np.float64] = np.append(levels, 1.0)
        self._ratios: NDArray[np.float64] = np.sqrt((1 - self._signal) / self._signal)
        self._before: tuple[int, NDArray[np.float64]] | None = None
        self.timesteps = timesteps.astype(np.float32)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D.

        D extrapolates x_0 from this step and the one before; the first step has none before and the last
        an infinite h, so both are of first order.
        """
        here, following = float(self._ratios[i]), float(self._ratios[i + 1])
        clean = self._clean(prediction, i, sample)
        direction = clean
        if self._before is not None and self._before[0] == i - 1 and following > 0:
            stride = math.log(here / following)
            stride_before = math.log(float(self._ratios[i - 1]) / here)
            direction = clean + (clean - self._before[1]) * (stride / (2 * stride_before))
        self._before = (i, clean)
        alpha_here, alpha = math.sqrt(self._signal[i]), math.sqrt(self._signal[i + 1])
        shrink = (following * alpha) / (here * alpha_here)
        return (shrink * sample + alpha * (1 - following / here) * direction).astype(np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        return self._clean(prediction, i, sample).astype(np.float32)

    def _clean(self, prediction: Latent, i: int, sample: Latent) -> NDArray[np.float64]:
        clean, _ = clean_and_noise(prediction, sample, float(self._signal[i]), self._prediction_type)
        return clean


def _timesteps(config: SchedulerSpec, steps: int) -> NDArray[np.float64]:
    """[steps]: the points of a path of steps + 1, whose last, noise-free point is not evaluated."""
    count = config.num_train_timesteps
    if config.timestep_spacing == "linspace":
        return np.round(np.linspace(0, count - 1, steps + 1))[:0:-1]
    if config.timestep_spacing == "leading":
        return np.arange(steps, 0, -1, dtype=np.float64) * (count // (steps + 1)) + config.steps_offset
    return spaced_timesteps(config.timestep_spacing, count, steps, config.steps_offset)
