"""How a base is sampled: the contract's `scheduler` and `guidance` (docs/concepts/bundle.md, "Guidance")."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

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
    "pndm",
]
"""Samplers by name; "dpm" is the older name of "dpmpp_2m"."""

SigmaSpacing = Literal["timesteps", "karras", "exponential", "sgm_uniform"]
"""Where the noise levels of a trajectory lie: at `timestep_spacing`'s timesteps, or apart from it."""


MAX_TRAIN_TIMESTEPS = 10_000
MAX_SCALE = 1e4
# Below, single precision cannot tell a signal level from 1; a base's own first beta is about 1e-3.
_LEAST_BETA = 1e-6
# Of the last timestep: a noise level of a million times the signal. Bases have 0.005.
_LEAST_SIGNAL = 1e-12

Beta = Annotated[float, Field(ge=_LEAST_BETA, lt=1)]
Scale = Annotated[float, Field(ge=0, le=MAX_SCALE)]
Timesteps = Annotated[int, Field(ge=1, le=MAX_TRAIN_TIMESTEPS)]


class SchedulerSpec(ContractModel):
    """The noise schedule the base was trained with, in the words of diffusers' scheduler configs.

    sigma_spacing: diffusers' use_karras_sigmas and use_exponential_sigmas; for samplers that know them.
    original_inference_steps: of the distillation, for LCM and TCD. eta: share of fresh noise, for TCD (its gamma).
    """

    newer = ("sigma_spacing", "original_inference_steps", "eta")

    num_train_timesteps: Timesteps = 1000
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    beta_start: Beta
    beta_end: Beta
    prediction_type: Literal["epsilon", "v_prediction"]
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    steps_offset: Annotated[int, Field(ge=0, lt=MAX_TRAIN_TIMESTEPS)] = 0
    set_alpha_to_one: bool = False
    clip_sample: bool = False
    clip_sample_range: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0
    rescale_betas_zero_snr: bool = False
    sigma_spacing: SigmaSpacing = "timesteps"
    original_inference_steps: Timesteps = 50
    eta: Annotated[float, Field(ge=0, le=1)] = 0.3

    @model_validator(mode="after")
    def _leaves_signal(self) -> SchedulerSpec:
        """Samplers divide by signal and noise, so neither may vanish in single precision."""
        count = self.num_train_timesteps
        if self.rescale_betas_zero_snr and count < 2:
            raise ValueError("zero terminal SNR needs at least 2 training timesteps, received 1")
        if self.beta_schedule != "squaredcos_cap_v2":
            power = 2.0 if self.beta_schedule == "scaled_linear" else 1.0
            first, last = self.beta_start ** (1 / power), self.beta_end ** (1 / power)
            step = (last - first) / max(1, count - 1)
            signal = math.exp(sum(math.log1p(-((first + i * step) ** power)) for i in range(count)))
            if signal < _LEAST_SIGNAL:
                raise ValueError(
                    f"betas from {self.beta_start} to {self.beta_end} over {count} timesteps leave a signal of "
                    f"{signal:.0e} at the last one, at least {_LEAST_SIGNAL:.0e} is expected"
                )
        return self


class GuidanceDefaults(ContractModel):
    """Defaults of `generate` (docs/concepts/bundle.md, "Guidance")."""

    mode: GuidanceMode = "dual"
    guidance_scale: Scale = 7.5
    reference_guidance_scale: Scale = 0.4
    strength: Scale = 1.0
    steps: Timesteps = 50
    scheduler: SchedulerKind = "ddim"
