"""What multistep samplers share: whole timesteps, their sigmas, and the clean latent in variance-preserving scale."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.sampling.schedulers.base import Latent, Scheduler, clean_and_noise
from dreamcache.runtime.sampling.schedulers.sigma_spacing import SigmaPath

Array = NDArray[np.float64]


class Multistep(Scheduler):
    """x = alpha (x_0 + sigma eps) with alpha = 1 / sqrt(1 + sigma²); lambda = -log sigma.

    A step reads what the steps before believed in, kept by their index, so that a second trajectory begins anew.
    """

    _sigmas: Array
    _prediction_type: str

    def _follow(self, path: SigmaPath, last: float, prediction_type: str) -> None:
        """Takes a path; last: the sigma at which the trajectory ends."""
        self._sigmas = np.append(path.sigmas, last)
        self._prediction_type = prediction_type
        self._believed: dict[int, Array] = {}
        self.timesteps = path.timesteps.astype(np.float32)

    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        return self._clean_and_noise(prediction, i, sample)[0].astype(np.float32)

    def _clean_and_noise(self, prediction: Latent, i: int, sample: Latent) -> tuple[Array, Array]:
        signal = 1 / (1 + float(self._sigmas[i]) ** 2)
        return clean_and_noise(prediction, sample, signal, self._prediction_type)

    def _alpha(self, i: int) -> float:
        return 1 / math.hypot(float(self._sigmas[i]), 1)

    def _stride(self, i: int) -> float:
        """lambda at point i + 1 less lambda at point i; infinite where no noise is left."""
        here, following = float(self._sigmas[i]), float(self._sigmas[i + 1])
        return math.log(here / following) if following > 0 else math.inf

    def _remember(self, i: int, belief: Array) -> Array | None:
        """Keeps a belief for the next step; returns that of the step before, None at a trajectory's start."""
        before = self._believed.get(i - 1) if i > 0 else None
        self._believed = {i: belief}
        return before
