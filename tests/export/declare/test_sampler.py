"""Each entry of each scheduler class of diffusers is carried, without effect, or refused before the first graph."""

from __future__ import annotations

import inspect
import json
import math
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import tiny_unet

from dreamcache.export.declare.sampler import ALLOWED, NEAREST, SAMPLERS, declare_sampler, declare_spacing
from dreamcache.export.declare.settings import declare_settings
from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.distillation import recognise_sampling
from dreamcache.models.bases.parts.schedule import KNOWN, READ_AS, read_schedule
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.bundle.contract import SchedulerSpec, needed_format

# Entries that the contract says in diffusers' own words, or as a sampler or a sigma spacing.
CARRIED = {*SchedulerSpec.model_fields, "algorithm_type", "use_karras_sigmas", "use_exponential_sigmas"}
CARRIED -= {"sigma_spacing", "eta"}
# Entries that change no picture, and why.
NO_EFFECT = {
    "dynamic_thresholding_ratio": "thresholding is refused",
    "sample_max_value": "thresholding is refused",
    "flow_shift": "use_flow_sigmas is refused",
    "time_shift_type": "use_flow_sigmas is refused",
}
# Each with another value than its usual one.
REFUSED: dict[str, Any] = {
    "trained_betas": [0.1] * 1000,
    "thresholding": True,
    "timestep_type": "continuous",
    "use_flow_sigmas": True,
    "disable_corrector": [0],
    "euler_at_final": True,
    "final_sigmas_type": "sigma_min",
    "interpolation_type": "log_linear",
    "lambda_min_clipped": -5.1,
    "lower_order_final": False,
    "predict_x0": False,
    "shift_terminal": 0.1,
    "sigma_max": 10.0,
    "sigma_min": 0.1,
    "skip_prk_steps": False,
    "solver_order": 3,
    "solver_p": "DDIMScheduler",
    "timestep_scaling": 1.0,
    "use_beta_sigmas": True,
    "use_dynamic_shifting": True,
    "use_lu_lambdas": True,
    "variance_type": "learned_range",
}
OTHER_SOLVERS = {"DPMSolverMultistepScheduler": "heun", "UniPCMultistepScheduler": "bh1"}


def entries(kind: str) -> list[str]:
    scheduler = getattr(import_module(f"diffusers.schedulers.scheduling_{KNOWN[kind]}"), kind)
    return list(inspect.signature(scheduler.__init__).parameters)[1:]


def base_of(kind: str, **config: Any) -> Base:
    schedule = read_schedule("b", {"_class_name": kind, **config})
    sampling = recognise_sampling({}, schedule)
    nothing: Any = None
    return Base(nothing, nothing, nothing, tiny_unet(), nothing, None, sampling, schedule)


CASES = [(kind, entry) for kind in KNOWN for entry in entries(kind)]


def test_no_class_and_no_entry_is_forgotten() -> None:
    assert {*SAMPLERS, *NEAREST} == {*KNOWN, *READ_AS}
    assert not SAMPLERS.keys() & NEAREST.keys()
    decided = CARRIED | NO_EFFECT.keys() | REFUSED.keys() | {"solver_type"}
    assert {entry for _, entry in CASES} - decided == set()
    assert ALLOWED.keys() <= decided
    assert CARRIED & REFUSED.keys() == set()
    # One that a newer diffusers might bring.
    assert {"use_new_sigmas"} - decided == {"use_new_sigmas"}


@pytest.mark.parametrize(("kind", "entry"), [case for case in CASES if case[1] in REFUSED])
def test_an_entry_that_no_sampler_carries_is_one_line(kind: str, entry: str) -> None:
    with pytest.raises((AdapterError, ExportError)) as raised:
        declare_sampler(
            base_of(kind, skip_prk_steps=True)
            if kind in NEAREST
            else base_of(kind, **({"skip_prk_steps": True} | {entry: REFUSED[entry]}))
        )
    line = str(raised.value)
    assert "\n" not in line
    assert (kind if kind in NEAREST and isinstance(raised.value, ExportError) else entry) in line


@pytest.mark.parametrize("kind", sorted(NEAREST))
def test_another_class_is_one_line_with_the_nearest(kind: str) -> None:
    with pytest.raises(ExportError, match=f"is a {kind}, .*give --scheduler {NEAREST[kind]}"):
        declare_sampler(base_of(kind))


@pytest.mark.parametrize(("kind", "solver"), OTHER_SOLVERS.items())
def test_other_solvers_are_refused_and_foreign_ones_are_the_class_s_own(kind: str, solver: str) -> None:
    with pytest.raises(ExportError, match=f"solver_type '{solver}'"):
        declare_sampler(base_of(kind, solver_type=solver))
    assert declare_sampler(base_of(kind, solver_type="logrho")) == SAMPLERS[kind]


@pytest.mark.parametrize("algorithm", ["dpmsolver", "sde-dpmsolver"])
def test_other_algorithms_are_refused(algorithm: str) -> None:
    base = base_of("DPMSolverMultistepScheduler", algorithm_type=algorithm, final_sigmas_type="sigma_min")
    with pytest.raises(ExportError, match=f"has algorithm_type '{algorithm}'"):
        declare_sampler(base)


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        ("DDIMScheduler", {}, ("ddim", "timesteps")),
        ("PNDMScheduler", {"skip_prk_steps": True}, ("pndm", "timesteps")),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, ("euler", "karras")),
        ("EulerAncestralDiscreteScheduler", {"use_karras_sigmas": True}, ("euler_a", "timesteps")),
        ("HeunDiscreteScheduler", {"use_exponential_sigmas": True}, ("heun", "exponential")),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": -math.inf}, ("dpmpp_2m", "timesteps")),
        (
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
            ("dpmpp_2m_sde", "karras"),
        ),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, ("unipc", "karras")),
        ("DEISMultistepScheduler", {"algorithm_type": "dpmsolver++"}, ("deis", "timesteps")),
        ("LCMScheduler", {}, ("lcm", "timesteps")),
        ("TCDScheduler", {}, ("tcd", "timesteps")),
        # Turbo's timesteps, with noise.
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, ("euler_a", "timesteps")),
    ],
)
def test_the_base_s_own_sampler(kind: str, config: dict[str, Any], expected: tuple[str, str]) -> None:
    base = base_of(kind, **config)
    assert (declare_sampler(base), declare_spacing(base)) == expected


def test_a_foreign_sigma_min_counts_as_in_diffusers() -> None:
    # DPM-Solver has no such entry and reads it all the same.
    with pytest.raises(ExportError, match=r"has sigma_min 0\.1, expected None"):
        declare_sampler(base_of("DPMSolverMultistepScheduler", use_karras_sigmas=True, sigma_min=0.1))


def test_whose_word_counts(tiny_base: Path) -> None:
    base, adapters = load_base(tiny_base), AdapterConfig()
    heun = read_schedule(
        "b", {**base.schedule, "_class_name": "LMSDiscreteScheduler", "use_karras_sigmas": True}
    )
    lms = Base(**{**vars(base), "schedule": heun})
    with pytest.raises(ExportError, match="is a LMSDiscreteScheduler"):
        declare_settings(lms, adapters, {})
    asked = declare_settings(lms, adapters, {}, "heun")
    assert (asked.guidance.scheduler, asked.scheduler.sigma_spacing) == ("heun", "karras")
    recommended = {"guidance": json.dumps({"scheduler": "euler", "steps": 9})}
    assert declare_settings(lms, adapters, recommended).guidance.scheduler == "euler"
    assert declare_settings(lms, adapters, recommended, "heun").guidance.scheduler == "heun"
    silent = {"guidance": json.dumps({"mode": "classic"})}
    with pytest.raises(ExportError, match="is a LMSDiscreteScheduler"):
        declare_settings(lms, adapters, silent)
    few = Base(**{**vars(lms), "sampling": "lcm"})
    assert declare_settings(few, adapters, {}).guidance.scheduler == "lcm"
    # Version 0.1 says which version reads what it does not know.
    shapes: Any = SimpleNamespace(newer=(), model_dump=dict)
    formats = [
        needed_format(shapes, *written)
        for written in (("ddim", None), ("heun", None), ("ddim", asked.scheduler))
    ]
    assert formats == [1, 2, 2]
    assert needed_format(shapes, "lcm", declare_settings(few, adapters, {}).scheduler) == 2
    assert needed_format(shapes, "ddim", declare_settings(base, adapters, {}).scheduler) == 1
    # diffusers' pipeline passes eta 0, also to TCD.
    tcd = declare_settings(few, adapters, {}, "tcd").scheduler
    assert (tcd.eta, asked.scheduler.eta) == (0.0, 0.3)
