"""How a base is sampled: the contract's `scheduler` and `guidance` (docs/bundle.md, "Guidance")."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dreamcache.runtime.bundle.tensors import ContractModel

GuidanceMode = Literal["dual", "text_first", "classic", "none"]
SchedulerKind = Literal[
    "ddim",
    "euler",
    "dpm",
    "lcm",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "unipc",
    "deis",
    "tcd",
]
"""Samplers by name; "dpm" is the older name of "dpmpp_2m"."""

SigmaSpacing = Literal["timesteps", "karras", "exponential", "sgm_uniform"]
"""Where the noise levels of a trajectory lie: at `timestep_spacing`'s timesteps, or apart from it."""


class SchedulerSpec(ContractModel):
    """The noise schedule the base was trained with, in the words of diffusers' scheduler configs.

    sigma_spacing: diffusers' use_karras_sigmas and use_exponential_sigmas; for samplers that know them.
    original_inference_steps: of the distillation, for LCM and TCD. eta: share of fresh noise, for TCD (its gamma).
    """

    newer = ("sigma_spacing", "original_inference_steps", "eta")

    num_train_timesteps: PositiveInt = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: PositiveFloat
    beta_end: PositiveFloat
    prediction_type: Literal["epsilon", "v_prediction"]
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: NonNegativeInt = 0
    set_alpha_to_one: bool = False
    clip_sample: bool = False
    clip_sample_range: PositiveFloat = 1.0
    rescale_betas_zero_snr: bool = False
    sigma_spacing: SigmaSpacing = "timesteps"
    original_inference_steps: PositiveInt = 50
    eta: Annotated[float, Field(ge=0, le=1)] = 0.3


class GuidanceDefaults(ContractModel):
    """Defaults of `generate` (docs/bundle.md, "Guidance")."""

    mode: GuidanceMode = "dual"
    guidance_scale: NonNegativeFloat = 7.5
    reference_guidance_scale: NonNegativeFloat = 0.4
    strength: NonNegativeFloat = 1.0
    steps: PositiveInt = 50
    scheduler: SchedulerKind = "ddim"
