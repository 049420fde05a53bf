"""UniPC: Zhao et al. 2023 (arXiv 2302.04867), algorithms 5 to 8: B2(h), second order, data prediction.

Every denoiser call serves twice: it corrects the sample it was made for, and it predicts the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource
from dreamcache.runtime.sampling.schedulers.multistep import Array, Multistep
from dreamcache.runtime.sampling.schedulers.sigma_spacing import whole_path


@dataclass(frozen=True)
class _Done:
    """A finished step: its index, the corrected sample it began at, the order it had."""

    index: int
    sample: Array
    order: int


class UniPC(Multistep):
    """Deterministic, second order; the first step and the last are of first order."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        self._follow(whole_path(config, steps), 0.0, config.prediction_type)
        self._done: _Done | None = None

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """The corrector on the step before, then the predictor of this one."""
        clean, _ = self._clean_and_noise(prediction, i, sample)
        corrected = sample.astype(np.float64)
        if i > 0 and self._done is not None and self._done.index == i - 1:
            corrected = self._corrected(self._done, clean)
            known = {index: self._believed[index] for index in (i - 2, i - 1) if index in self._believed}
        else:
            known = {}
        self._believed = {**known, i: clean}
        order = min(2, len(self.timesteps) - i, 1 + len(known))
        self._done = _Done(i, corrected, order)
        slope = 0.5 * self._difference(i) if order == 2 else 0.0
        return np.asarray(self._moved(i, corrected, slope), dtype=np.float32)

    def _corrected(self, done: _Done, clean: Array) -> Array:
        """The sample at the end of a step, now that the clean latent is known there."""
        i = done.index
        arrived = clean - self._believed[i]
        if done.order == 1:
            return self._moved(i, done.sample, 0.5 * arrived)
        first, second = self._weights(i)
        return self._moved(i, done.sample, first * self._difference(i) + second * arrived)

    def _moved(self, i: int, sample: Array, slope: Array | float) -> Array:
        """x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) (x_0 + slope)."""
        alpha, ratio = self._alpha(i + 1), float(self._sigmas[i + 1] / self._sigmas[i])
        shrink = ratio * alpha / self._alpha(i)
        return np.asarray(shrink * sample + alpha * (1 - ratio) * (self._believed[i] + slope))

    def _difference(self, i: int) -> Array:
        """D_1 = (x_0 one step earlier - x_0) / r, with r the ratio of the strides, negative."""
        return np.asarray((self._believed[i - 1] - self._believed[i]) / self._ratio(i))

    def _ratio(self, i: int) -> float:
        return -self._stride(i - 1) / self._stride(i)

    def _weights(self, i: int) -> tuple[float, float]:
        """rho_1, rho_2 of the corrector: rho_1 r^k + rho_2 = b_{k+1}, k = 0, 1, b_k = k! phi_{k+1}(-h) / B(h)."""
        z = -self._stride(i)
        grown = math.expm1(z)
        second = grown / z - 1
        third = second / z - 0.5
        b_1, b_2 = second / grown, 2 * third / grown
        first = (b_1 - b_2) / (1 - self._ratio(i))
        return first, b_1 - first
