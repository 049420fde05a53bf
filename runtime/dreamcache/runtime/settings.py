"""The settings of one generation: the caller's, and the contract's defaults for the rest."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypedDict

import numpy as np

from dreamcache.runtime.arguments import check_functions, switch, whole_number
from dreamcache.runtime.bundle.contract import Contract, GuidanceMode, SchedulerKind, SigmaSpacing
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.guidance import Guidance
from dreamcache.runtime.sampling.prompt_weights import weighted_parts
from dreamcache.runtime.sampling.schedulers import checked_steps, make_scheduler
from dreamcache.runtime.sampling.tokenizer_rules import check_length

MAX_IMAGES = 1024
MAX_SEED = 2**63 - 1
MAX_STEP_CACHE = 100


class SettingsWarning(UserWarning):
    """A setting was given that has no effect on the picture."""


class Options(TypedDict, total=False):
    """What `Pipeline.generate` and `Pipeline.denoise` take; None and absent mean the bundle's default.

    steps: denoising steps. seed: of the first picture, picture i has seed + i; a random one by default.
    scheduler: "ddim", "euler", "euler_a", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "deis", "pndm", "lcm" or
    "tcd".
    sigma_spacing: "timesteps", "karras", "exponential" or "sgm_uniform", for schedulers that know it.
    guidance_mode: "dual", "text_first", "classic" or "none".
    guidance_scale, reference_guidance_scale: s_text and s_ref (docs/concepts/bundle.md, "Guidance").
    strength: of the reference.
    negative_prompt: replaces the empty text. guidance_interval: start and end of guidance, as fractions of the steps.
    step_cache: steps per run of the whole denoiser; the shallow graph runs at the others.
    prompt_weights: read `(word:1.3)` in prompt and negative prompt as a weight (`sampling.prompt_weights`).
    """

    steps: int | None
    seed: int | None
    scheduler: SchedulerKind | None
    sigma_spacing: SigmaSpacing | None
    guidance_mode: GuidanceMode | None
    guidance_scale: float | None
    reference_guidance_scale: float | None
    strength: float | None
    negative_prompt: str | None
    guidance_interval: tuple[float, float] | None
    step_cache: int | None
    prompt_weights: bool | None


class CallOptions(Options, total=False):
    """`Options`, and the names that diffusers' pipelines have for some of them.

    num_inference_steps, num_images_per_prompt: steps and num_images. generator: a seed, or a generator whose
    `initial_seed()` is one (torch.Generator). callback_on_step_end: called after each step with the pipeline, the
    step's index, its timestep and {"latents": …}; it looks, and an exception of it ends the drawing.
    """

    num_inference_steps: int | None
    num_images_per_prompt: int | None
    generator: object
    callback_on_step_end: Callable[[Any, int, float, dict[str, Any]], object] | None


_DIFFUSERS_NAMES = {
    "num_inference_steps": "steps",
    "num_images_per_prompt": "num_images",
    "generator": "seed",
}


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
    prompt_weights: bool = False
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
    negative_prompt: str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    step_cache: int | None = None,
    prompt_weights: bool | None = None,
) -> Settings:
    """Complete the settings from the contract and check them.

    Raises: SettingsError naming the setting, what is expected and what was received.
    """
    defaults = contract.guidance
    for name, value in (
        ("guidance_scale", guidance_scale),
        ("reference_guidance_scale", reference_guidance_scale),
        ("strength", strength),
    ):
        _check_number(name, value)
    guidance = Guidance(
        mode=defaults.mode if guidance_mode is None else guidance_mode,
        guidance_scale=defaults.guidance_scale if guidance_scale is None else guidance_scale,
        reference_guidance_scale=(
            defaults.reference_guidance_scale
            if reference_guidance_scale is None
            else reference_guidance_scale
        ),
        strength=defaults.strength if strength is None else strength,
        interval=(0.0, 1.0) if guidance_interval is None else _interval(guidance_interval),
    )
    sampler = defaults.scheduler if scheduler is None else scheduler
    count = checked_steps(defaults.steps if steps is None else steps, contract.scheduler.num_train_timesteps)
    make_scheduler(contract.scheduler, sampler, count, sigma_spacing)
    images = checked_images(num_images)
    first = secrets.randbelow(2**32) if seed is None else whole_number("seed", seed, 0, MAX_SEED)
    if first + images - 1 > MAX_SEED:
        raise SettingsError(
            f"seed: image i uses seed + i, so at most {MAX_SEED - images + 1} is expected for {images} images, "
            f"received {first}"
        )
    return Settings(
        steps=count,
        seed=first,
        num_images=images,
        scheduler=sampler,
        guidance=guidance,
        negative_prompt=check_text("negative_prompt", "" if negative_prompt is None else negative_prompt),
        step_cache=_step_cache(contract, step_cache),
        prompt_weights=switch("prompt_weights", prompt_weights),
        sigma_spacing=sigma_spacing,
    )


def checked_images(count: object) -> int:
    """A number of images, 1 for None. Raises: SettingsError."""
    return 1 if count is None else whole_number("num_images", count, 1, MAX_IMAGES)


def own_names(
    options: Mapping[str, Any], num_images: int | None
) -> tuple[dict[str, Any], int | None, Callable[..., object] | None]:
    """Options without diffusers' names; the number of images, None where neither name gives one; the callback.

    Raises: SettingsError for a name that is none, a setting given by both of its names, a generator without a seed, and
    a callback that cannot be called.
    """
    plain: dict[str, Any] = {"num_images": num_images}
    for name, value in options.items():
        if name not in CallOptions.__annotations__:
            known = ", ".join(Options.__annotations__)
            raise SettingsError(f"{name}: no setting has this name; expected are {known}")
        ours = _DIFFUSERS_NAMES.get(name, name)
        if value is None:
            continue
        if plain.get(ours) is not None:
            both = sorted(
                {name, ours, *(other for other, plainly in _DIFFUSERS_NAMES.items() if plainly == ours)}
            )
            given = [
                one for one in both if one in options or (one == "num_images" and num_images is not None)
            ]
            raise SettingsError(f"{ours}: one of {' and '.join(given)} is expected, received both")
        plain[ours] = _seed_of(value) if name == "generator" else value
    told = plain.pop("callback_on_step_end", None)
    check_functions(callback_on_step_end=told)
    return plain, plain.pop("num_images"), told


def _seed_of(generator: object) -> object:
    initial_seed = getattr(generator, "initial_seed", None)
    if callable(initial_seed):
        return initial_seed()
    if isinstance(generator, int):
        return generator
    raise SettingsError(
        f"generator: a seed, or a generator with initial_seed(), is expected, received {type(generator).__name__}; "
        "image i of one call uses seed + i"
    )


def check_text(name: str, value: object) -> str:
    """A prompt. Raises: SettingsError for anything but text that UTF-8 can hold, of at most 20,000 characters."""
    if not isinstance(value, str):
        received = type(value).__name__
        raise SettingsError(f"{name}: one text is expected, received {received}; call once for each prompt")
    check_length(name, value)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = value[error.start : error.start + 1]
        raise SettingsError(
            f"{name}: text that UTF-8 can hold is expected, received half a character ({half!r}); read the prompt "
            "as UTF-8, and give both halves of an emoji"
        ) from error
    return value


def check_prompt(prompt: str, settings: Settings) -> None:
    """What would be refused after a reference has been cached. Raises: SettingsError."""
    check_text("prompt", prompt)
    for text in (prompt, settings.negative_prompt) if settings.prompt_weights else ():
        weighted_parts(text)


def warn_of_no_effect(settings: Settings, has_reference: bool, asked: Mapping[str, object]) -> None:
    """One line for each setting that was given and changes nothing. Warns: SettingsWarning."""
    guidance = settings.guidance
    given = {
        name
        for name, value in asked.items()
        if value is not None and not (isinstance(value, str) and not value)
    }
    unguided = guidance.mode == "none" or not any(
        len(guidance.branches_at(step, settings.steps, has_reference)) > 1 for step in range(settings.steps)
    )
    plain = len(guidance.branches(has_reference)) == 2 and guidance.guidance_scale == 1
    without = {
        "negative_prompt": "guidance is off"
        if unguided
        else "a guidance scale of 1 cancels it"
        if plain
        else "",
        "guidance_scale": "guidance is off" if unguided else "",
        "guidance_interval": "guidance is off" if guidance.mode == "none" else "",
        "reference_guidance_scale": ""
        if len(guidance.branches(has_reference)) == 3 and not unguided
        else (f"guidance is {guidance.mode}" if has_reference else "there is no subject"),
        "strength": "" if has_reference else "there is no subject",
        "step_cache": "there is one step" if settings.steps == 1 and settings.step_cache > 1 else "",
    }
    for name, why in without.items():
        if name in given and why:
            warnings.warn(f"{name} has no effect: {why}", SettingsWarning, stacklevel=3)


def _check_number(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (Real, np.number))):
        raise SettingsError(f"{name}: a number is expected, received {value!r}")


def _interval(value: object) -> tuple[float, float]:
    listed = isinstance(value, (tuple, list)) or (isinstance(value, np.ndarray) and value.ndim == 1)
    ends = list(value) if listed else []  # type: ignore[call-overload]
    if len(ends) != 2 or None in ends:
        raise SettingsError(
            f"guidance interval: two fractions of the steps, as in (0.2, 0.8), are expected, received {value!r}"
        )
    for end in ends:
        _check_number("guidance interval", end)
    # a whole number may be larger than any float; beyond the steps is beyond the steps
    start, end = (float(min(max(end, -1), 2)) for end in ends)
    return start, end


def _step_cache(contract: Contract, asked: int | None) -> int:
    every = 1 if asked is None else whole_number("step_cache", asked, 1, MAX_STEP_CACHE)
    if every > 1 and contract.graphs.shallow is None:
        raise SettingsError(
            "step_cache: this bundle has no shallow graph to run between whole steps; "
            "leave it out, or export the bundle with one"
        )
    return every
