"""Where a trajectory's noise levels lie: sigma = sqrt(1 - abar) / sqrt(abar), noise for one unit of signal.

Karras: Karras et al. 2022 (arXiv 2206.00364), eq. 5 with rho = 7. Exponential: evenly spaced logarithms. Between
two training timesteps, the timestep that a sigma belongs to is interpolated by log sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import SchedulerSpec
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.schedulers.noise_schedule import (
    levels_never_zero,
    spaced_timesteps,
    visited,
)

Array = NDArray[np.float64]
_KARRAS_RHO = 7.0


@dataclass(frozen=True)
class SigmaPath:
    """What a trajectory visits, noisiest first: timesteps [steps] and their sigmas [steps]."""

    timesteps: Array
    sigmas: Array


def fractional_path(config: SchedulerSpec, steps: int) -> SigmaPath:
    """The path of Euler's and Heun's methods, whose timesteps may lie between those of training.

    Karras and exponential sigmas lie between the first and the last that timestep spacing visits.
    Raises: SettingsError for more steps than the spacing can place.
    """
    count = config.num_train_timesteps
    spaced = spaced_timesteps(config.timestep_spacing, count, steps, config.steps_offset)
    timesteps = visited(spaced, count, config.timestep_spacing)
    table = _sigma_table(config)
    sigmas = np.interp(timesteps, np.arange(count), table)
    if config.sigma_spacing in ("timesteps", "sgm_uniform"):
        return SigmaPath(timesteps, sigmas)
    sigmas = _respaced(float(sigmas[0]), float(sigmas[-1]), steps, config.sigma_spacing)
    return _falling(SigmaPath(_timesteps_of(sigmas, table), sigmas), config)


def whole_path(config: SchedulerSpec, steps: int, *, rounds_cosine: bool = True) -> SigmaPath:
    """The path of multistep samplers, whose timesteps are whole.

    Timestep spacing divides a path of steps + 1, whose last, noise-free point is not evaluated; Karras and
    exponential sigmas span the whole of training. rounds_cosine: timesteps of Karras sigmas on a cosine schedule
    are rounded, as on the others, and not cut (diffusers' solvers differ in this).
    Raises: SettingsError for more steps than the spacing can place.
    """
    count, table = config.num_train_timesteps, _sigma_table(config)
    if config.sigma_spacing in ("timesteps", "sgm_uniform"):
        timesteps = visited(_solver_timesteps(config, steps), count, config.timestep_spacing)
        return SigmaPath(timesteps, table[timesteps.astype(np.int64)].astype(np.float64))
    sigmas = _respaced(float(table[-1]), float(table[0]), steps, config.sigma_spacing)
    exact = _timesteps_of(sigmas, table)
    cosine = config.beta_schedule == "squaredcos_cap_v2"
    rounded = config.sigma_spacing == "karras" and (rounds_cosine or not cosine)
    return _falling(SigmaPath(np.round(exact) if rounded else np.trunc(exact), sigmas), config)


def _sigma_table(config: SchedulerSpec) -> NDArray[np.float32]:
    """Sigma at each training timestep, in single precision: timesteps that are cut depend on its last bit."""
    levels = levels_never_zero(config)
    return np.asarray(np.sqrt((np.float32(1) - levels) / levels), dtype=np.float32)


def smallest_sigma(config: SchedulerSpec) -> float:
    """Sigma at training timestep 0."""
    return float(_sigma_table(config)[0])


def _solver_timesteps(config: SchedulerSpec, steps: int) -> Array:
    count = config.num_train_timesteps
    if config.timestep_spacing == "linspace":
        return np.round(np.linspace(0, count - 1, steps + 1))[:0:-1]
    if config.timestep_spacing == "leading":
        return np.arange(steps, 0, -1, dtype=np.float64) * (count // (steps + 1)) + config.steps_offset
    return spaced_timesteps(config.timestep_spacing, count, steps, config.steps_offset)


def _respaced(largest: float, smallest: float, steps: int, spacing: str) -> Array:
    """[steps] sigmas from the largest to the smallest."""
    if spacing == "exponential":
        return np.exp(np.linspace(math.log(largest), math.log(smallest), steps))
    high, low = largest ** (1 / _KARRAS_RHO), smallest ** (1 / _KARRAS_RHO)
    return np.asarray((high + np.linspace(0, 1, steps) * (low - high)) ** _KARRAS_RHO)


def _timesteps_of(sigmas: Array, table: NDArray[np.float32]) -> Array:
    """[steps], fractional: interpolated in log sigma and never outside training."""
    logs, wanted = np.log(table), np.log(np.maximum(sigmas, 1e-10))
    below = np.clip(np.searchsorted(logs, wanted, side="right") - 1, 0, len(logs) - 2)
    # The stride is taken in single precision, as the table's own.
    share = np.clip((logs[below] - wanted) / (logs[below] - logs[below + 1]), 0, 1)
    return np.asarray((1 - share) * below + share * (below + 1))


def _falling(path: SigmaPath, config: SchedulerSpec) -> SigmaPath:
    """The path unchanged when its sigmas fall and its start is told apart from the second step.

    Raises: SettingsError when there are too many steps for that.
    """
    if np.all(np.diff(path.sigmas) < 0) and (
        len(path.timesteps) == 1 or path.timesteps[0] > path.timesteps[1]
    ):
        return path
    raise SettingsError(
        f"steps: fewer distinct noise levels exist with {config.sigma_spacing} spacing than the "
        f"{len(path.timesteps)} steps received; ask for fewer steps or leave the spacing out"
    )
