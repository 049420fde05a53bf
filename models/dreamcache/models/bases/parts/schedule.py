"""A base's noise schedule as diffusers' pipeline reads it: its class's defaults, and what the pipeline repairs.

The class itself reads the config, so that what a config leaves out is that class's default. Whatever samples a
base needs to know is in the result; what this package cannot say is refused by name.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from dreamcache.models.errors import AdapterError, reason

KNOWN: dict[str, str] = {
    "DDIMScheduler": "ddim",
    "DDIMParallelScheduler": "ddim_parallel",
    "DDPMScheduler": "ddpm",
    "DDPMParallelScheduler": "ddpm_parallel",
    "DEISMultistepScheduler": "deis_multistep",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "EulerDiscreteScheduler": "euler_discrete",
    "HeunDiscreteScheduler": "heun_discrete",
    "KDPM2AncestralDiscreteScheduler": "k_dpm_2_ancestral_discrete",
    "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
    "LCMScheduler": "lcm",
    "LMSDiscreteScheduler": "lms_discrete",
    "PNDMScheduler": "pndm",
    "TCDScheduler": "tcd",
    "UniPCMultistepScheduler": "unipc_multistep",
}
"""Classes whose configs describe noise added by betas, and the module of diffusers that each lives in."""

READ_AS = {
    "DPMSolverSDEScheduler": "HeunDiscreteScheduler",
    "SASolverScheduler": "DPMSolverMultistepScheduler",
}
"""Further such classes, which no bundle samples with and which need packages of their own; and one of `KNOWN` whose
config has the same entries and defaults, as far as they describe the noise."""

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction")

# Classes of models that were trained on another kind of noise, whatever the config says.
_OTHER_NOISE = ("FlowM", "EDM", "Cosine", "CM", "ScoreSde")
# What DDIM takes and another class may not know: diffusers' value where that class samples by itself.
_UNSAID = {"clip_sample": False, "set_alpha_to_one": False, "timestep_spacing": "linspace"}
# Entries that change what the UNet was trained on; only these values are the ordinary ones.
_ORDINARY: dict[str, Any] = {
    "trained_betas": None,
    "thresholding": False,
    "timestep_type": "discrete",
    "use_flow_sigmas": False,
}

# By an argument's type: what is no value of it, and what is.
_TYPES: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((str, list, dict), "true or false"),
    int: ((str, list, dict, float), "a whole number"),
    float: ((str, list, dict), "a number"),
}


def read_schedule(name: str, config: Mapping[str, Any], *, repaired: bool = True) -> dict[str, Any]:
    """A scheduler_config.json with nothing left out, as diffusers' pipeline would use it.

    Args:
        name: of the base, for the message.
        config: of a scheduler of diffusers; without a class it is DDIM's.
        repaired: as by StableDiffusionPipeline, ``steps_offset`` becomes 1 and ``clip_sample`` false, whatever the
            config says; StableDiffusionXLPipeline leaves both.

    Returns:
        Every argument of the class, and ``_class_name``.

    Raises:
        AdapterError: an unknown class, or an entry that the contract cannot say.
    """
    kind = str(config.get("_class_name", DDIMScheduler.__name__))
    check_scheduler_class(name, kind)
    reader = READ_AS.get(kind, kind)
    scheduler = getattr(import_module(f"diffusers.schedulers.scheduling_{KNOWN[reader]}"), reader)
    # Refused by the words of the config, before the class may raise its own.
    for entry, allowed in (("beta_schedule", BETA_SCHEDULES), ("prediction_type", PREDICTION_TYPES)):
        if (value := config.get(entry, allowed[0])) not in allowed:
            raise AdapterError(_refusal(name, entry, value, f"one of {', '.join(allowed)}"))
    for entry in ("beta_start", "beta_end"):
        if not isinstance(value := config.get(entry, 0.5), float) or not 0 < value < 1:
            raise AdapterError(_refusal(name, entry, value, "a number between 0 and 1"))
    steps = config.get("num_train_timesteps", 1)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise AdapterError(_refusal(name, "num_train_timesteps", steps, "a whole number above 0"))
    _check_types(name, scheduler, config)
    try:
        with quiet_diffusers():
            # diffusers only looks at the class's name; the entries may be another class's.
            # Beta sigmas need a package that only those who draw with them have.
            plain = {**config, "_class_name": reader, "use_beta_sigmas": False}
            read = {**scheduler.from_config(plain).config, **_kept(config, "use_beta_sigmas")}
    except Exception as error:  # whatever arithmetic on a wrong value raises
        raise AdapterError(
            f"the scheduler config of {name} cannot be read ({reason(error)}); correct scheduler_config.json"
        ) from error
    # Two entries count for every class with Karras or exponential sigmas, also for those that do not name them.
    names = [*inspect.signature(scheduler.__init__).parameters, "sigma_min", "sigma_max"]
    taken = [entry for entry in names if entry in read]
    schedule = _UNSAID | {entry: read[entry] for entry in taken}
    if schedule["timestep_spacing"] is None:
        raise AdapterError(_refusal(name, "timestep_spacing", None, "'leading', 'trailing' or 'linspace'"))
    for entry, ordinary in _ORDINARY.items():
        if schedule.get(entry, ordinary) != ordinary:
            raise AdapterError(_refusal(name, entry, schedule[entry], repr(ordinary)))
    return schedule | {"_class_name": kind} | ({"steps_offset": 1, "clip_sample": False} if repaired else {})


def check_scheduler_class(name: str, kind: str) -> None:
    """Raises: AdapterError for a class whose config does not say what noise the UNet was trained on."""
    if kind in KNOWN or kind in READ_AS:
        return
    mend = "give a Stable Diffusion 1.x or 2.x base"
    if not kind.startswith(_OTHER_NOISE):
        mend = f"copy the scheduler's files of the base that it was made from, or {mend}"
    raise AdapterError(
        f"the scheduler of {name} is a {kind}, expected one of {', '.join(sorted({*KNOWN, *READ_AS}))}; {mend}"
    )


def _check_types(name: str, scheduler: Any, config: Mapping[str, Any]) -> None:
    """Raises: AdapterError for text or a fraction in a place for yes or no, a count or a number.

    diffusers takes every text for yes, "false" too, and repairs no count that is written as a fraction.
    """
    for entry, hint in get_type_hints(inspect.unwrap(scheduler.__init__)).items():
        value = config.get(entry)
        kinds = set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}
        for kind, (refused, expected) in _TYPES.items():
            if kind in kinds and str not in kinds and isinstance(value, refused):
                raise AdapterError(_refusal(name, entry, value, expected))


def ddim_of(schedule: Mapping[str, Any]) -> DDIMScheduler:
    """DDIM on a schedule that `read_schedule` read; further entries are kept in its config."""
    return DDIMScheduler.from_config({**schedule, "_class_name": DDIMScheduler.__name__})


def _kept(config: Mapping[str, Any], entry: str) -> dict[str, Any]:
    return {entry: config[entry]} if entry in config else {}


def _refusal(name: str, entry: str, value: object, expected: str) -> str:
    shown = repr(value)
    shown = f"{shown[:40]}…" if len(shown) > 40 else shown
    return (
        f"the scheduler config of {name} has {entry} {shown}, expected {expected}; give another base, or correct "
        "scheduler_config.json where it is wrong"
    )


@contextmanager
def quiet_diffusers() -> Iterator[None]:
    """Without both libraries' warnings: of entries of other classes, and of what is refused in one line."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
