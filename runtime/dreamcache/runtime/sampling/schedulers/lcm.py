"""Latent consistency sampling: Luo et al. 2023 (arXiv 2310.04378), multistep, with its boundary scalings.

For bases (or adapters) distilled to jump straight to the clean latent; each step renoises that jump.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers.base import (
    Latent,
    NoiseSource,
    Scheduler,
    clean_and_noise,
    clipped,
    refuse_noise_prediction_without_signal,
)
from dreamcache.runtime.sampling.schedulers.noise_schedule import signal_levels, visited

# The distillation of the published models, which diffusers takes as its defaults too.
_DISTILLED_STEPS = 50
_TIMESTEP_SCALING = 10.0
_SIGMA_DATA = 0.5


class LCM(Scheduler):
    """Stochastic; 1 to 50 steps, of which 4 to 8 are usual. Spacing is that of the distillation."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        spaced = _timesteps(config.num_train_timesteps, steps)
        timesteps = visited(spaced, config.num_train_timesteps, "the distillation's").astype(np.int64)
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
        if noise is None:
            raise SettingsError("noise: LCM renoises between its steps, received no source; pass one to step")
        following = float(self._signal[i + 1])
        return (math.sqrt(following) * jump + math.sqrt(1 - following) * noise()).astype(np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        return self._clean(prediction, i, sample).astype(np.float32)

    def _clean(self, prediction: Latent, i: int, sample: Latent) -> NDArray[np.float64]:
        clean, _ = clean_and_noise(prediction, sample, float(self._signal[i]), self._config.prediction_type)
        return clipped(self._config, clean)


def _timesteps(train_timesteps: int, steps: int) -> NDArray[np.float64]:
    """[steps], evenly chosen among the timesteps of the distillation, from the noisiest down."""
    if train_timesteps < _DISTILLED_STEPS:
        raise SettingsError(
            f"scheduler: lcm expects at least {_DISTILLED_STEPS} training timesteps, received "
            f"{train_timesteps}; choose ddim, euler or dpm"
        )
    if steps > _DISTILLED_STEPS:
        raise SettingsError(
            f"steps: at most {_DISTILLED_STEPS} are expected with lcm, received {steps}; ask for 4 to 8"
        )
    distilled = np.arange(_DISTILLED_STEPS, 0, -1) * (train_timesteps // _DISTILLED_STEPS) - 1
    chosen = np.floor(np.linspace(0, _DISTILLED_STEPS, steps, endpoint=False)).astype(np.int64)
    return distilled[chosen].astype(np.float64)
