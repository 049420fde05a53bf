"""Heun's method on the probability-flow ODE: Karras et al. 2022 (arXiv 2206.00364), algorithm 1, no churn."""

from __future__ import annotations

import numpy as np

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource, clipped
from dreamcache.runtime.sampling.schedulers.euler import Array, Euler
from dreamcache.runtime.sampling.schedulers.noise_schedule import refuse_zero_terminal_snr


class Heun(Euler):
    """Deterministic, second order in sigma: two denoiser calls a step, one in the last, which ends at sigma 0.

    Calls 2k and 2k + 1 belong to step k: an Euler step, then the same step along the mean of both ends' directions.
    """

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        refuse_zero_terminal_snr(config, "heun")
        super().__init__(config, steps)
        # Each noise level but the first is arrived at by one call and left by the next.
        repeats = [1, *[2] * (steps - 1)]
        self._config = config
        self._sigmas = np.append(np.repeat(self._sigmas[:-1], repeats), 0.0)
        self.timesteps = np.repeat(self.timesteps, repeats)
        self._begun: tuple[int, Array, Array] | None = None

    def step_of(self, i: int) -> int:
        return i // 2

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """Call 2k: x' = x + (sigma_{k+1} - sigma_k) d. Call 2k + 1: the same from x with (d + d') / 2 for d."""
        clean = self._clean(prediction, i, sample)
        direction = (sample - clean) / float(self._sigmas[i])
        if i % 2 == 0:
            start = sample.astype(np.float64)
            self._begun = (i, start, direction)
            stride = float(self._sigmas[i + 1] - self._sigmas[i])
            return (start + stride * direction).astype(np.float32)
        assert self._begun is not None
        assert self._begun[0] == i - 1
        _, start, first = self._begun
        stride = float(self._sigmas[i] - self._sigmas[i - 1])
        return (start + stride * (first + direction) / 2).astype(np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        return self._clean(prediction, i, sample).astype(np.float32)

    def _clean(self, prediction: Latent, i: int, sample: Latent) -> Array:
        return clipped(self._config, self._clean_and_noise(prediction, i, sample)[0])
