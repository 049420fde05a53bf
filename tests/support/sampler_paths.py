"""Whole trajectories of our samplers and of diffusers', from the same start, denoiser and noise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.sampling.schedulers import Scheduler

KINDS = ("ddim", "euler", "dpm", "lcm", "euler_a", "heun", "dpmpp_2m_sde", "unipc", "deis", "tcd", "pndm")
DISTILLED = ("lcm", "tcd")
STOCHASTIC = {
    "lcm": "scheduling_lcm",
    "tcd": "scheduling_tcd",
    "euler_a": "scheduling_euler_ancestral_discrete",
    "dpmpp_2m_sde": "scheduling_dpmsolver_multistep",
}
SHAPE = (2, 4, 6, 5)
TOLERANCE = 1e-5
# Spacing, offset and final alpha as in the scheduler config of Stable Diffusion 1.5.
SD15 = SchedulerSpec(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="epsilon",
    steps_offset=1,
)

THEIRS: dict[str, Any] = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "dpm": diffusers.DPMSolverMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "euler_a": diffusers.EulerAncestralDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "dpmpp_2m_sde": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "deis": diffusers.DEISMultistepScheduler,
    "tcd": diffusers.TCDScheduler,
    "pndm": diffusers.PNDMScheduler,
}


def changed(**settings: Any) -> SchedulerSpec:
    return SchedulerSpec(**(SD15.model_dump() | settings))


def start() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal(SHAPE, dtype=np.float32)


def fresh_noises() -> Callable[[], NDArray[np.float32]]:
    rng = np.random.default_rng(11)
    return lambda: rng.standard_normal(SHAPE, dtype=np.float32)


def denoise(sample: NDArray[np.float32], timestep: float) -> NDArray[np.float32]:
    """A smooth, bounded, nonlinear stand-in for a denoiser."""
    wave = np.sin(1.3 * sample + 0.002 * timestep) + 0.3 * np.tanh(np.roll(sample, 1, axis=-1))
    return np.asarray(0.8 * wave, dtype=np.float32)


def our_trajectory(scheduler: Scheduler) -> list[NDArray[np.float32]]:
    noise = fresh_noises()
    sample = (start() * scheduler.init_noise_sigma).astype(np.float32)
    samples = [sample]
    for i, timestep in enumerate(scheduler.timesteps):
        prediction = denoise(scheduler.scale_input(sample, i), float(timestep))
        sample = scheduler.step(prediction, i, sample, noise)
        assert sample.dtype == np.float32
        samples.append(sample)
    return samples


def their_config(config: SchedulerSpec, kind: str) -> dict[str, Any]:
    """The scheduler config in diffusers' own words."""
    named = {"karras": "use_karras_sigmas", "exponential": "use_exponential_sigmas"}
    theirs = config.model_dump()
    if (flag := named.get(theirs.pop("sigma_spacing", ""))) is not None:
        theirs[flag] = True
    if kind == "dpmpp_2m_sde":
        theirs["algorithm_type"] = "sde-dpmsolver++"
    if kind == "pndm":
        theirs["skip_prk_steps"] = True
    return theirs


def their_trajectory(
    config: SchedulerSpec, kind: str, steps: int, monkeypatch: pytest.MonkeyPatch, **extra: float
) -> list[NDArray[np.float64]]:
    """Diffusers' own steps in float64: in float32 they round by more than the tolerance where the noise is 10⁴.

    extra: what its step takes besides.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = THEIRS[kind].from_config(their_config(config, kind))
    scheduler.set_timesteps(steps)
    if kind in ("unipc", "deis", "dpmpp_2m_sde", "euler_a"):
        # Coefficients too: differences of neighbouring sigmas cancel in float32.
        scheduler.sigmas = scheduler.sigmas.double()
    noise = fresh_noises()
    if kind in STOCHASTIC:
        monkeypatch.setattr(
            f"diffusers.schedulers.{STOCHASTIC[kind]}.randn_tensor",
            lambda *_, **__: torch.from_numpy(noise()),
        )
    sample = torch.from_numpy(start()).double() * scheduler.init_noise_sigma
    samples = [sample.numpy()]
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(sample, timestep)
        prediction = torch.from_numpy(denoise(scaled.numpy().astype(np.float32), float(timestep)))
        sample = scheduler.step(prediction.double(), timestep, sample, **extra).prev_sample.double()
        samples.append(sample.numpy())
    return samples


def largest_error(ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float64]]) -> float:
    assert len(ours) == len(theirs)
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(ours, theirs, strict=True))
