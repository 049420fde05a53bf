"""DDIM without added noise: Song, Meng and Ermon 2020 (arXiv 2010.02502), eq. 12 with sigma_t = 0."""

from __future__ import annotations

import math

import numpy as np

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import (
    Latent,
    NoiseSource,
    Scheduler,
    clean_and_noise,
    clipped,
    refuse_noise_prediction_without_signal,
)
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels, spaced_timesteps, visited


class DDIM(Scheduler):
    """Deterministic, first order."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        count = config.num_train_timesteps
        spaced = spaced_timesteps(config.timestep_spacing, count, steps, config.steps_offset)
        timesteps = visited(np.round(spaced), count, config.timestep_spacing).astype(np.int64)
        levels = signal_levels(config)
        final = 1.0 if config.set_alpha_to_one else float(levels[0])
        # The target of a step lies one whole stride below, whatever the next visited timestep is.
        targets = timesteps - count // steps
        self._config = config
        self._signal = levels[timesteps]
        self._next_signal = np.where(targets >= 0, levels[np.maximum(targets, 0)], final)
        self.timesteps = timesteps.astype(np.float32)
        refuse_noise_prediction_without_signal(config, self._signal)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps."""
        clean, direction = clean_and_noise(
            prediction, sample, float(self._signal[i]), self._config.prediction_type
        )
        target = float(self._next_signal[i])
        following = math.sqrt(target) * clipped(self._config, clean) + math.sqrt(1 - target) * direction
        return following.astype(np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        clean, _ = clean_and_noise(prediction, sample, float(self._signal[i]), self._config.prediction_type)
        return clipped(self._config, clean).astype(np.float32)
