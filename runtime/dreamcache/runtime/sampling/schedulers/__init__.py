"""Samplers in numpy, each equal to its namesake in diffusers over a whole trajectory.

scheduler = make_scheduler(contract.scheduler, "ddim", steps=50)
latent = noise * scheduler.init_noise_sigma
for i, timestep in enumerate(scheduler.timesteps):
    prediction = denoise(scheduler.scale_input(latent, i), timestep)
    latent = scheduler.step(prediction, i, latent, draw_noise)
"""

from __future__ import annotations

from typing import get_args

from dreamcache.runtime.arguments import whole_number
from dreamcache.runtime.bundle.contract import SchedulerKind, SchedulerSpec, SigmaSpacing
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers.base import NoiseSource, Scheduler, calls_of_step
from dreamcache.runtime.sampling.schedulers.ddim import DDIM
from dreamcache.runtime.sampling.schedulers.deis import DEIS
from dreamcache.runtime.sampling.schedulers.distilled import LCM, TCD
from dreamcache.runtime.sampling.schedulers.dpm_solver import DPMSolverPlusPlus2M, DPMSolverPlusPlus2MSDE
from dreamcache.runtime.sampling.schedulers.euler import Euler, EulerAncestral
from dreamcache.runtime.sampling.schedulers.heun import Heun
from dreamcache.runtime.sampling.schedulers.pndm import PNDM
from dreamcache.runtime.sampling.schedulers.unipc import UniPC

__all__ = ["NoiseSource", "Scheduler", "calls_of_step", "checked_steps", "make_scheduler"]

_SCHEDULERS: dict[SchedulerKind, type[Scheduler]] = {
    "ddim": DDIM,
    "euler": Euler,
    "dpm": DPMSolverPlusPlus2M,
    "lcm": LCM,
    "euler_a": EulerAncestral,
    "heun": Heun,
    "dpmpp_2m": DPMSolverPlusPlus2M,
    "dpmpp_2m_sde": DPMSolverPlusPlus2MSDE,
    "unipc": UniPC,
    "deis": DEIS,
    "tcd": TCD,
    "pndm": PNDM,
}
# Samplers without Karras and exponential sigmas, and among them those whose timesteps are the distillation's.
_TIMESTEPS_ALONE: tuple[SchedulerKind, ...] = ("ddim", "pndm", "euler_a", "lcm", "tcd")
_DISTILLED: tuple[SchedulerKind, ...] = ("lcm", "tcd")


def checked_steps(steps: object, train_timesteps: int) -> int:
    """`steps` as an int.

    Raises: SettingsError unless it is a whole number from 1 to `train_timesteps`.
    """
    return whole_number("steps", steps, 1, train_timesteps, "try 20 to 50")


def make_scheduler(
    config: SchedulerSpec, kind: SchedulerKind, steps: int, sigma_spacing: SigmaSpacing | None = None
) -> Scheduler:
    """A sampler of `kind` for a base trained with `config`, ready for one trajectory of `steps` steps.

    sigma_spacing: None is the config's, as far as this kind knows it.
    Raises: SettingsError for an unknown kind or spacing, a spacing that this kind does not know, steps that are not a
    whole number from 1 to the number of training timesteps, or more than can be placed on distinct timesteps.
    """
    if not isinstance(kind, str) or kind not in _SCHEDULERS:
        known = ", ".join(get_args(SchedulerKind))
        raise SettingsError(f"scheduler: one of {known} is expected, received {kind!r}; choose one of them")
    count = checked_steps(steps, config.num_train_timesteps)
    return _SCHEDULERS[kind](_spaced(config, kind, sigma_spacing), count)


def _spaced(config: SchedulerSpec, kind: SchedulerKind, asked: SigmaSpacing | None) -> SchedulerSpec:
    """The config with the spacing that was asked for."""
    known = get_args(SigmaSpacing)
    if asked is not None and asked not in known:
        raise SettingsError(
            f"sigma spacing: one of {', '.join(known)} is expected, received {asked!r}; choose one of them"
        )
    refused = ("karras", "exponential") if kind in _TIMESTEPS_ALONE else ()
    if asked in refused or (asked == "sgm_uniform" and kind in _DISTILLED):
        raise SettingsError(
            f"sigma spacing: {kind} has timesteps of its own and no {asked} spacing; leave the spacing out, or choose "
            "euler, heun, dpmpp_2m, dpmpp_2m_sde, unipc or deis"
        )
    spacing = config.sigma_spacing if asked is None else asked
    changes: dict[str, str] = {"sigma_spacing": "timesteps" if spacing in refused else spacing}
    if spacing == "sgm_uniform":
        # The uniform spacing of SGM's samplers is what diffusers calls trailing timesteps.
        changes["timestep_spacing"] = "trailing"
    return config.model_copy(update=changes)
