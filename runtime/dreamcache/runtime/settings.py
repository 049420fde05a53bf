"""The settings of one generation: the caller's, and the contract's defaults for the rest."""

from __future__ import annotations

import operator
import secrets
from dataclasses import dataclass
from typing import TypedDict

from dreamcache.runtime.bundle.contract import Contract, GuidanceMode, SchedulerKind, SigmaSpacing
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.guidance import Guidance
from dreamcache.runtime.sampling.schedulers import checked_steps, make_scheduler

MAX_IMAGES = 1024
MAX_STEP_CACHE = 100


class Options(TypedDict, total=False):
    """What `Pipeline.generate` and `Pipeline.denoise` take; None and absent mean the bundle's default.

    steps: denoising steps. seed: of the first picture, picture i has seed + i; a random one by default.
    scheduler: "ddim", "euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "deis", "pndm", "lcm" or
    "tcd".
    sigma_spacing: "timesteps", "karras", "exponential" or "sgm_uniform", for schedulers that know it.
    guidance_mode: "dual", "text_first", "classic" or "none".
    guidance_scale, reference_guidance_scale: s_text and s_ref (docs/bundle.md, "Guidance"). strength: of the reference.
    negative_prompt: replaces the empty text. guidance_interval: start and end of guidance, as fractions of the steps.
    step_cache: steps per run of the whole denoiser; the shallow graph runs at the others.
    """

    steps: int | None
    seed: int | None
    scheduler: SchedulerKind | None
    sigma_spacing: SigmaSpacing | None
    guidance_mode: GuidanceMode | None
    guidance_scale: float | None
    reference_guidance_scale: float | None
    strength: float | None
    negative_prompt: str
    guidance_interval: tuple[float, float] | None
    step_cache: int | None


@dataclass(frozen=True)
class Settings:
    """Checked settings, complete. sigma_spacing: None is the base's own, as far as the scheduler knows it."""

    steps: int
    seed: int
    num_images: int
    scheduler: SchedulerKind
    guidance: Guidance
    negative_prompt: str
    step_cache: int = 1
    sigma_spacing: SigmaSpacing | None = None


def resolve_settings(
    contract: Contract,
    num_images: int | None = None,
    *,
    steps: int | None = None,
    seed: int | None = None,
    scheduler: SchedulerKind | None = None,
    sigma_spacing: SigmaSpacing | None = None,
    guidance_mode: GuidanceMode | None = None,
    guidance_scale: float | None = None,
    reference_guidance_scale: float | None = None,
    strength: float | None = None,
    negative_prompt: str = "",
    guidance_interval: tuple[float, float] | None = None,
    step_cache: int | None = None,
) -> Settings:
    """Complete the settings from the contract and check them.

    Raises: SettingsError naming the setting, what is expected and what was received.
    """
    defaults = contract.guidance
    guidance = Guidance(
        mode=defaults.mode if guidance_mode is None else guidance_mode,
        guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        reference_guidance_scale=(
            defaults.reference_guidance_scale
            if reference_guidance_scale is None
            else reference_guidance_scale
        ),
        strength=defaults.strength if strength is None else strength,
        interval=(0.0, 1.0) if guidance_interval is None else guidance_interval,
    )
    sampler = defaults.scheduler if scheduler is None else scheduler
    count = checked_steps(defaults.steps if steps is None else steps, contract.scheduler.num_train_timesteps)
    make_scheduler(contract.scheduler, sampler, count, sigma_spacing)
    images = 1 if num_images is None else _whole("num_images", num_images, 1, MAX_IMAGES)
    return Settings(
        steps=count,
        seed=secrets.randbelow(2**32) if seed is None else _whole("seed", seed, 0, 2**63 - 1),
        num_images=images,
        scheduler=sampler,
        guidance=guidance,
        negative_prompt=negative_prompt,
        step_cache=_step_cache(contract, step_cache),
        sigma_spacing=sigma_spacing,
    )


def _step_cache(contract: Contract, asked: int | None) -> int:
    every = 1 if asked is None else _whole("step_cache", asked, 1, MAX_STEP_CACHE)
    if every > 1 and contract.graphs.shallow is None:
        raise SettingsError(
            "step_cache: this bundle has no shallow graph to run between whole steps; "
            "leave it out, or export the bundle with one"
        )
    return every


def _whole(name: str, value: object, least: int, most: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # anything a caller passes; refused below
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or not least <= number <= most:
        raise SettingsError(f"{name}: a whole number from {least} to {most} is expected, received {value!r}")
    return number
