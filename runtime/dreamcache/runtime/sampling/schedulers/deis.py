"""DEIS: Zhang and Chen 2022 (arXiv 2204.13902), the multistep form (tAB) with polynomials in log rho, order 2.

With y = x / alpha and rho = sigma / alpha the probability-flow ODE is dy / drho = eps. eps is extrapolated by the
line through its last two values over log rho, whose integral over rho is known.
"""

from __future__ import annotations

import math

import numpy as np

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers.base import Latent, NoiseSource
from dreamcache.runtime.sampling.schedulers.multistep import Multistep
from dreamcache.runtime.sampling.schedulers.noise_schedule import refuse_zero_terminal_snr
from dreamcache.runtime.sampling.schedulers.sigma_spacing import smallest_sigma, whole_path

# Below this many steps the last one is of first order.
_FEW_STEPS = 15


class DEIS(Multistep):
    """Deterministic, second order; ends at the smallest sigma of training, not at 0."""

    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        refuse_zero_terminal_snr(config, "deis")
        path = whole_path(config, steps)
        spaced = config.sigma_spacing in ("karras", "exponential")
        last = float(path.sigmas[-1]) if spaced else smallest_sigma(config)
        self._follow(path, last, config.prediction_type)

    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:  # noqa: ARG002
        """x_t = alpha_t (x_s / alpha_s + c_0 eps_0 + c_1 eps_1); first order: c_0 is the stride of rho, c_1 = 0."""
        _, direction = self._clean_and_noise(prediction, i, sample)
        before = self._remember(i, direction)
        here, following = float(self._sigmas[i]), float(self._sigmas[i + 1])
        last_of_few = i == len(self.timesteps) - 1 and len(self.timesteps) < _FEW_STEPS
        if before is None or last_of_few:
            moved = (following - here) * direction
        else:
            earlier = float(self._sigmas[i - 1])
            moved = _weight(here, following, here, earlier) * direction
            moved = moved + _weight(here, following, earlier, here) * before
        return np.asarray(self._alpha(i + 1) * (sample / self._alpha(i) + moved), dtype=np.float32)


def _weight(start: float, end: float, own: float, other: float) -> float:
    """The integral over rho from start to end of log(rho / other) / log(own / other)."""

    def antiderivative(rho: float) -> float:
        return rho * (math.log(rho / other) - 1)

    return (antiderivative(end) - antiderivative(start)) / math.log(own / other)
