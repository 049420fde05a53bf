"""The base's own sampler: what its scheduler_config says, as a sampler of the runner, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.distillation import TRAILING, Sampling
from dreamcache.runtime.bundle.contract import SchedulerKind, SigmaSpacing

SAMPLERS: dict[str, SchedulerKind] = {
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim",
    "PNDMScheduler": "pndm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",
    "DEISMultistepScheduler": "deis",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
"""diffusers' classes that a sampler of the runner equals."""

NEAREST: dict[str, SchedulerKind] = {
    "DDPMScheduler": "euler_a",
    "DDPMParallelScheduler": "euler_a",
    "DPMSolverSDEScheduler": "dpmpp_2m_sde",
    "DPMSolverSinglestepScheduler": "dpmpp_2m",
    "KDPM2DiscreteScheduler": "heun",
    "KDPM2AncestralDiscreteScheduler": "euler_a",
    "LMSDiscreteScheduler": "deis",
    "SASolverScheduler": "dpmpp_2m_sde",
}
"""The other classes that a base may name, and what is most like them."""

ALLOWED: dict[str, tuple[object, ...]] = {
    "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "deis"),
    "disable_corrector": ([],),
    "euler_at_final": (False,),
    "final_sigmas_type": ("zero",),
    "interpolation_type": ("linear",),
    "lambda_min_clipped": (-math.inf,),
    "lower_order_final": (True,),
    "predict_x0": (True,),
    "shift_terminal": (None,),
    "sigma_max": (None,),
    "sigma_min": (None,),
    "skip_prk_steps": (True,),
    "solver_order": (2,),
    # Each solver's own: what else another class may have is made its own by the class.
    "solver_type": ("midpoint", "bh2", "logrho"),
    "solver_p": (None,),
    "timestep_scaling": (10.0,),
    "use_beta_sigmas": (False,),
    "use_dynamic_shifting": (False,),
    "use_lu_lambdas": (False,),
    # A learned variance doubles the UNet's channels; of the others these samplers take no notice.
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
}
"""Entries of a sampler, and the values with which the runner's is the same; the usual one first."""

_SPACINGS: dict[str, SigmaSpacing] = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential"}
_OF_FEW_STEPS: Mapping[str, tuple[SchedulerKind, ...]] = {
    "lcm": ("lcm", "tcd"),
    "turbo": ("euler", "euler_a"),
    "tcd": ("tcd",),
    "hyper": ("ddim",),
}


def declare_sampler(base: Base) -> SchedulerKind:
    """The sampler that diffusers' pipeline would use; for few steps the distillation's, where that is another.

    Raises:
        ExportError: a class or an entry that no sampler of the runner equals; one line.
    """
    kind = _class_of(base)
    own = SAMPLERS.get(kind)
    few = _OF_FEW_STEPS.get(way_of(base))
    if few is not None and own not in few:
        return few[0]
    if own is None:
        raise ExportError(
            f"the base's scheduler is a {kind}, which no sampler of a bundle equals; give --scheduler "
            f"{NEAREST.get(kind, 'ddim')}, the nearest, or another of docs/reference/samplers.md"
        )
    for entry, allowed in ALLOWED.items():
        value = base.schedule.get(entry, allowed[0])
        if value not in allowed:
            raise ExportError(
                f"the base's scheduler config has {entry} {value!r}, expected {_listed(allowed)}; give --scheduler "
                f"{own} to sample without it, or another of docs/reference/samplers.md"
            )
    return "dpmpp_2m_sde" if base.schedule.get("algorithm_type") == "sde-dpmsolver++" else own


def declare_spacing(base: Base) -> SigmaSpacing:
    """Where the config places noise levels apart from its timesteps."""
    if way_of(base) in TRAILING:
        return "timesteps"
    return next((spacing for entry, spacing in _SPACINGS.items() if base.schedule.get(entry)), "timesteps")


def way_of(base: Base) -> Sampling:
    """How it wants to be sampled, with what was joined to it."""
    return base.sampling if base.few_steps is None else base.few_steps.sampling


def _class_of(base: Base) -> str:
    return str(base.schedule.get("_class_name", "DDIMScheduler"))


def _listed(allowed: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in allowed)
