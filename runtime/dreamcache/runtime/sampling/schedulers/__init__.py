"""Samplers in numpy, each equal to its namesake in diffusers over a whole trajectory.

scheduler = make_scheduler(contract.scheduler, "ddim", steps=50)
latent = noise * scheduler.init_noise_sigma
for i, timestep in enumerate(scheduler.timesteps):
    prediction = denoise(scheduler.scale_input(latent, i), timestep)
    latent = scheduler.step(prediction, i, latent, draw_noise)
"""

from __future__ import annotations

import operator
from typing import get_args

from dreamcache.runtime.bundle.contract import SchedulerKind, SchedulerSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers.base import NoiseSource, Scheduler
from dreamcache.runtime.sampling.schedulers.ddim import DDIM
from dreamcache.runtime.sampling.schedulers.dpm_solver import DPMSolverPlusPlus2M
from dreamcache.runtime.sampling.schedulers.euler import Euler
from dreamcache.runtime.sampling.schedulers.lcm import LCM

__all__ = [
    "DDIM",
    "LCM",
    "DPMSolverPlusPlus2M",
    "Euler",
    "NoiseSource",
    "Scheduler",
    "checked_steps",
    "make_scheduler",
]

_SCHEDULERS: dict[SchedulerKind, type[Scheduler]] = {
    "ddim": DDIM,
    "euler": Euler,
    "dpm": DPMSolverPlusPlus2M,
    "lcm": LCM,
}


def checked_steps(steps: object, train_timesteps: int) -> int:
    """`steps` as an int.

    Raises: SettingsError unless it is a whole number from 1 to `train_timesteps`.
    """
    expected = f"steps: a whole number from 1 to {train_timesteps} is expected, received {steps!r}"
    if isinstance(steps, bool):
        raise SettingsError(f"{expected}; try 20 to 50")
    try:
        count = operator.index(steps)  # type: ignore[arg-type]  # anything a caller passes; refused below
    except TypeError as error:
        raise SettingsError(f"{expected}; try 20 to 50") from error
    if not 1 <= count <= train_timesteps:
        raise SettingsError(f"{expected}; try 20 to 50")
    return count


def make_scheduler(config: SchedulerSpec, kind: SchedulerKind, steps: int) -> Scheduler:
    """A sampler of `kind` for a base trained with `config`, ready for one trajectory of `steps` steps.

    Raises: SettingsError for an unknown kind, steps that are not a whole number from 1 to the number of
    training timesteps, or more steps than this kind and spacing can place on distinct timesteps.
    """
    if kind not in _SCHEDULERS:
        known = ", ".join(get_args(SchedulerKind))
        raise SettingsError(f"scheduler: one of {known} is expected, received {kind!r}; choose one of them")
    return _SCHEDULERS[kind](config, checked_steps(steps, config.num_train_timesteps))
