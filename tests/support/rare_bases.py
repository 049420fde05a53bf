"""Further altered bases: samplers and entries that few tools write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from altered_bases import DPM, EULER, UNIPC, USUAL, AlteredBase, entry, scheduler

SCHEDULER = "scheduler/scheduler_config.json"
KARRAS, TRAILING = {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}
VELOCITY = {"prediction_type": "v_prediction"}
SAMPLING: tuple[tuple[str, dict[str, Any]], ...] = (
    (EULER, {**TRAILING, **KARRAS}),
    (EULER, {**TRAILING, "use_exponential_sigmas": True}),
    (EULER, {**KARRAS, "use_exponential_sigmas": True}),
    (EULER, {"timestep_type": "continuous"}),
    ("EulerAncestralDiscreteScheduler", {**TRAILING, **KARRAS}),
    ("DDIMScheduler", KARRAS),
    ("DDIMScheduler", {**TRAILING, "rescale_betas_zero_snr": True}),
    ("PNDMScheduler", {"skip_prk_steps": True, **KARRAS}),
    (DPM, {"timestep_spacing": "leading", "steps_offset": 1, **KARRAS}),
    (DPM, {"use_flow_sigmas": True}),
    (DPM, {"prediction_type": "flow_prediction"}),
    (UNIPC, {**TRAILING, **KARRAS}),
    (UNIPC, {"solver_type": "bh1"}),
    ("DEISMultistepScheduler", KARRAS),
    ("HeunDiscreteScheduler", {"use_exponential_sigmas": True, "timestep_spacing": "leading", **VELOCITY}),
    ("LCMScheduler", {**TRAILING, **VELOCITY, "rescale_betas_zero_snr": True}),
    ("TCDScheduler", VELOCITY),
    ("DDIMInverseScheduler", {}),
    ("FlaxPNDMScheduler", {}),
)


def rare_bases() -> Iterator[AlteredBase]:
    """All of them."""
    yield from (scheduler(kind, **config, **USUAL) for kind, config in SAMPLING)
    yield from _entries()


def _entries() -> Iterator[AlteredBase]:
    changes: dict[str, Any]
    for changes in (
        {"timestep_spacing": None},
        {"beta_start": "0.00085"},
        {"steps_offset": 5},
        {"clip_sample": None},
        {"beta_schedule": None},
        {"_diffusers_version": "0.1.0", "timestep_values": None, "tensor_format": "pt"},
    ):
        yield entry(SCHEDULER, **changes)
    for changes in ({"_class_name": "FlaxUNet2DConditionModel"}, {"sample_size": "8"}):
        yield entry("unet/config.json", **changes)
