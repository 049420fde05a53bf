"""PNDM without Runge-Kutta steps (PLMS): Liu et al. 2022 (arXiv 2202.09778), eq. 12; Stable Diffusion's own sampler.

Adams-Bashforth of up to four predictions, each step as DDIM's. Only the first step is made twice: once with its own
prediction, then again from its start with the mean of that and the prediction at its end.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource, Scheduler, clean_and_noise
from dreamcache.runtime.sampling.schedulers.noise_schedule import (
    refuse_zero_terminal_snr,
    signal_levels,
    spaced_timesteps,
    visited,
)

# Weights of the newest prediction and those before it.
_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class PNDM(Scheduler):
    """Deterministic, fourth order; n + 1 denoiser calls in n steps."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        refuse_zero_terminal_snr(config, "pndm")
        count, stride = config.num_train_timesteps, config.num_train_timesteps // steps
        spaced = spaced_timesteps(config.timestep_spacing, count, steps, config.steps_offset)
        timesteps = visited(np.round(spaced), count, config.timestep_spacing).astype(np.int64)
        timesteps = np.repeat(timesteps, [1, *[2] * (steps > 1), *[1] * (steps - 2)])
        starts, ends = timesteps.copy(), timesteps - stride
        if steps > 1:
            # The second call repeats the stride that ends where it is.
            starts[1], ends[1] = timesteps[1] + stride, timesteps[1]
        levels = signal_levels(config)
        final = 1.0 if config.set_alpha_to_one else float(levels[0])
        self._prediction_type = config.prediction_type
        self._signal, self._start_signal = levels[timesteps], levels[starts]
        self._end_signal = np.where(ends >= 0, levels[np.maximum(ends, 0)], final)
        self.timesteps = timesteps.astype(np.float32)
        self._predictions: list[NDArray[np.float64]] = []
        self._start: Latent | None = None

    def step_of(self, i: int) -> int:
        return max(i - 1, 0)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """DDIM's step, by the combined prediction."""
        predicted = prediction.astype(np.float64)
        if i == 0:
            self._predictions, self._start = [], sample
        if i == 1:
            assert self._start is not None
            predicted, sample = (predicted + self._predictions[-1]) / 2, self._start
        else:
            self._predictions = [*self._predictions[-3:], predicted]
            weights = _ADAMS_BASHFORTH[len(self._predictions) - 1]
            newest_first = reversed(self._predictions)
            predicted = sum(
                (weight * known for weight, known in zip(weights, newest_first, strict=True)),
                np.zeros_like(predicted),
            )
        clean, direction = clean_and_noise(
            predicted, sample, float(self._start_signal[i]), self._prediction_type
        )
        end = float(self._end_signal[i])
        return np.asarray(math.sqrt(end) * clean + math.sqrt(1 - end) * direction, dtype=np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        clean, _ = clean_and_noise(prediction, sample, float(self._signal[i]), self._prediction_type)
        return clean.astype(np.float32)
