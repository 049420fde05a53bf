"""What every sampler offers, and the two things a denoiser may predict.

Timesteps and arithmetic are in double precision (a latent is small); what leaves is float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerKind, SchedulerSpec
from dreamcache.runtime.errors import SettingsError

Latent = NDArray[np.float32]
NoiseSource = Callable[[], Latent]
"""Draws a fresh standard-normal array of the latent's shape."""


class Scheduler(ABC):
    """One trajectory from noise to latent.

    timesteps: [calls] float32, noisiest first: what the denoiser is told at each of its calls (whole numbers, except
    Euler's and Heun's), one a step but for Heun's method and PNDM's first step.
    init_noise_sigma: standard deviation of the noise a trajectory starts from.
    """

    timesteps: NDArray[np.float32]
    init_noise_sigma: float = 1.0

    @abstractmethod
    def __init__(self, config: SchedulerSpec, steps: int) -> None:
        """steps: whole and positive. Raises: SettingsError when they cannot all be visited."""

    def step_of(self, i: int) -> int:
        """The denoising step, from 0, that call i belongs to."""
        return i

    def scale_input(self, sample: Latent, i: int) -> Latent:  # noqa: ARG002  # Euler's depends on i
        """The denoiser's input at call i for a sample of the trajectory: [b, z, h, w], same shape."""
        return sample

    @abstractmethod
    def step(self, prediction: Latent, i: int, sample: Latent, noise: NoiseSource | None = None) -> Latent:
        """The sample of the next call, [b, z, h, w].

        prediction: the denoiser's output for `scale_input(sample, i)`; sample: the trajectory's, unscaled;
        noise: used by LCM, TCD and those that are called stochastic.
        """

    @abstractmethod
    def predicted_original(self, prediction: Latent, i: int, sample: Latent) -> Latent:
        """The clean latent that the denoiser believes in at call i, [b, z, h, w]: a preview."""


def calls_of_step(kind: SchedulerKind, step: int, steps: int) -> int:
    """Denoiser calls of one step for each branch of the guidance."""
    twice = (kind == "heun" and step < steps - 1) or (kind == "pndm" and step == 0 and steps > 1)
    return 2 if twice else 1


def drawn(noise: NoiseSource | None, kind: str) -> Latent:
    """A fresh draw. Raises: SettingsError without a source."""
    if noise is None:
        raise SettingsError(
            f"noise: {kind} adds noise between its steps, received no source; pass one to step"
        )
    return noise()


def clean_and_noise(
    prediction: NDArray[np.floating], sample: NDArray[np.floating], signal: float, prediction_type: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(x_0, eps) that a prediction stands for, both shaped like the sample.

    sample: x_t in variance-preserving scale; signal: abar_t. v = sqrt(abar) eps - sqrt(1 - abar) x_0:
    Salimans and Ho 2022 (arXiv 2202.00512), appendix D; eps: DDIM, eq. 9.
    """
    predicted, x_t = prediction.astype(np.float64), sample.astype(np.float64)
    alpha, sigma = math.sqrt(signal), math.sqrt(1 - signal)
    if prediction_type == "v_prediction":
        return alpha * x_t - sigma * predicted, alpha * predicted + sigma * x_t
    return (x_t - sigma * predicted) / alpha, predicted


def refuse_noise_prediction_without_signal(config: SchedulerSpec, signal: NDArray[np.float64]) -> None:
    """Raises: SettingsError when a noise predictor would have to find x_0 where no signal is left."""
    if config.prediction_type == "epsilon" and not np.all(signal > 0):
        raise SettingsError(
            "scheduler: v_prediction is expected where the noisiest timestep holds no signal "
            "(rescale_betas_zero_snr), received epsilon; choose euler or dpmpp_2m, or leading spacing"
        )


def clipped(config: SchedulerSpec, clean: NDArray[np.float64]) -> NDArray[np.float64]:
    """x_0 inside ±clip_sample_range when the base asks for it (pixel models do, latent ones do not)."""
    if not config.clip_sample:
        return clean
    return np.clip(clean, -config.clip_sample_range, config.clip_sample_range)
