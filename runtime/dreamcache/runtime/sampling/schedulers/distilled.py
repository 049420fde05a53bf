"""Samplers of distilled bases (or adapters), with few steps at the distillation's own timesteps.

LCM: latent consistency, Luo et al. 2023 (arXiv 2310.04378), multistep, with its boundary scalings: each step jumps
straight to the clean latent and renoises it. TCD: trajectory consistency, Zheng et al. 2024 (arXiv 2402.19159),
algorithm 4 (strategic stochastic sampling): each step jumps to an earlier point of the trajectory.
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
    clipped,
    drawn,
    refuse_noise_prediction_without_signal,
)
from dreamcache.runtime.sampling.schedulers.noise_schedule import distilled_timesteps, signal_levels

# The distillation of the published models, which diffusers takes as its defaults too.
_TIMESTEP_SCALING = 10.0
_SIGMA_DATA = 0.5


class LCM(Scheduler):
    """Stochastic; as many steps as the distillation had, of which 4 to 8 are usual. Spacing is the distillation's.

    The noise is the pictures' own (`sampling.noise.noise_source`), one draw a step but the last.
    """

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        timesteps = distilled_timesteps(config, "lcm", steps).astype(np.int64)
        self._config = config
        self._signal = signal_levels(config)[timesteps]
        self.timesteps = timesteps.astype(np.float32)
        refuse_noise_prediction_without_signal(config, self._signal)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:
        """x_{i+1} = sqrt(abar) f + sqrt(1 - abar) z, with f = c_out x_0 + c_skip x_i; the last step is f.

        Raises: SettingsError when noise is needed and no source is given.
        """
        scaled = float(self.timesteps[i]) * _TIMESTEP_SCALING
        spread = scaled**2 + _SIGMA_DATA**2
        jump = scaled / math.sqrt(spread) * self._clean(prediction, i, sample)
        jump = jump + _SIGMA_DATA**2 / spread * sample
        if i == len(self.timesteps) - 1:
            return jump.astype(np.float32)
        following = float(self._signal[i + 1])
        return (math.sqrt(following) * jump + math.sqrt(1 - following) * drawn(noise, "lcm")).astype(
            np.float32
        )

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        return self._clean(prediction, i, sample).astype(np.float32)

    def _clean(self, prediction: Latent, i: int, sample: Latent) -> NDArray[np.float64]:
        clean, _ = clean_and_noise(prediction, sample, float(self._signal[i]), self._config.prediction_type)
        return clipped(self._config, clean)


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
