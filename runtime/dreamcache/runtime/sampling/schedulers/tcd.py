"""Trajectory consistency sampling: Zheng et al. 2024 (arXiv 2402.19159), algorithm 4 (strategic stochastic sampling).

For bases (or adapters) distilled to jump to any earlier point of the trajectory, not to its end alone.
"""

from __future__ import annotations

import math

import numpy as np

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import (
    Latent,
    NoiseSource,
    Scheduler,
    clean_and_noise,
    drawn,
    refuse_noise_prediction_without_signal,
)
from dreamcache.runtime.sampling.schedulers.noise_schedule import distilled_timesteps, signal_levels


class TCD(Scheduler):
    """Stochastic where eta is above 0; as many steps as the distillation had, of which 4 to 8 are usual.

    eta (gamma in the paper) is the share of the way to the next timestep that fresh noise makes good; the noise is the
    pictures' own (`sampling.noise.noise_source`), one draw a step but the last.
    """

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        timesteps = distilled_timesteps(config, "tcd", steps).astype(np.int64)
        levels = signal_levels(config)
        following = np.append(timesteps[1:], 0)
        jumps = np.floor((1 - config.eta) * following.astype(np.float32)).astype(np.int64)
        self._config = config
        self._signal = levels[timesteps]
        self._next_signal = levels[following]
        self._jump_signal = levels[jumps]
        self.timesteps = timesteps.astype(np.float32)
        refuse_noise_prediction_without_signal(config, self._signal)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:
        """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps, s = (1 - eta) t; then noised from s to the next timestep t.

        Raises: SettingsError when noise is needed and no source is given.
        """
        clean, direction = clean_and_noise(
            prediction, sample, float(self._signal[i]), self._config.prediction_type
        )
        reached, target = float(self._jump_signal[i]), float(self._next_signal[i])
        following = math.sqrt(reached) * clean + math.sqrt(1 - reached) * direction
        if self._config.eta > 0 and i < len(self.timesteps) - 1:
            kept = target / reached
            following = math.sqrt(kept) * following + math.sqrt(1 - kept) * drawn(noise, "tcd")
        return np.asarray(following, dtype=np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        clean, _ = clean_and_noise(prediction, sample, float(self._signal[i]), self._config.prediction_type)
        return clean.astype(np.float32)
