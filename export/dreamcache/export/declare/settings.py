"""What the contract says of text, latents, noise schedule and guidance: made and checked before the first graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from transformers import CLIPTokenizerFast

from dreamcache.export.declare.sampler import declare_sampler, declare_spacing, way_of
from dreamcache.export.declare.sizes import PictureSize
from dreamcache.export.errors import ExportError
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.distillation import TRAILING, FewSteps, Sampling
from dreamcache.models.bases.parts.clip_tokenizer import vectors_of
from dreamcache.models.bases.parts.second_text import time_ids
from dreamcache.models.config import AdapterConfig
from dreamcache.runtime.bundle.contract import (
    AddedConditions,
    GuidanceDefaults,
    SchedulerKind,
    SchedulerSpec,
    TextSpec,
    VaeSpec,
)
from dreamcache.runtime.bundle.tensors import ContractModel
from dreamcache.runtime.errors import SettingsError, first_line
from dreamcache.runtime.sampling.schedulers import make_scheduler

SECOND_TOKENIZER = "tokenizer_2"

Spec = TypeVar("Spec", bound=ContractModel)


@dataclass(frozen=True)
class DeclaredSettings:
    """Of the contract's fields of the same names."""

    text: TextSpec
    text_2: TextSpec | None
    added_conditions: AddedConditions | None
    vae: VaeSpec
    scheduler: SchedulerSpec
    guidance: GuidanceDefaults


def declare_settings(
    base: Base,
    adapters: AdapterConfig,
    metadata: Mapping[str, str],
    sampler: SchedulerKind | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> DeclaredSettings:
    """All of them, which together can draw: the default sampler visits its default steps.

    Args:
        base: the model.
        adapters: config of its adapters.
        metadata: of the adapters file.
        sampler: the default one; None is what the metadata recommends, else the base's own.
        size: height and width of the picture in pixels; None is the base's own.

    Raises:
        ExportError: an entry that the contract cannot say, or entries that contradict each other; one line.
    """
    scheduler = declare_scheduler(base)
    few = base.few_steps
    guidance = declare_guidance(metadata, way_of(base), sdxl=base.second is not None)
    if few is not None:
        guidance = _in_few_steps(guidance, few)
    if sampler is None and (few is not None or not recommends_sampler(metadata)):
        sampler = declare_sampler(base)
    if sampler is not None:
        guidance = guidance.model_copy(update={"scheduler": sampler})
    if guidance.scheduler == "tcd":
        # Without a LoRA's word what diffusers' pipeline hands to any scheduler that takes it.
        eta = few.eta if few is not None and few.sampling == "tcd" else 0.0
        scheduler = scheduler.model_copy(update={"eta": eta})
    if adapters.cache_timestep >= scheduler.num_train_timesteps:
        raise ExportError(
            f"the adapters cache at timestep {adapters.cache_timestep}, and the scheduler config has "
            f"{scheduler.num_train_timesteps} (num_train_timesteps); give the base that they were trained on"
        )
    try:
        make_scheduler(scheduler, guidance.scheduler, guidance.steps)
    except SettingsError as error:
        raise ExportError(
            f"the scheduler config does not allow the bundle's defaults, {guidance.scheduler} in {guidance.steps} "
            f"steps ({first_line(error)}); correct scheduler_config.json, or the adapters' guidance metadata"
        ) from error
    second = base.second
    return DeclaredSettings(
        text=declare_text(base.tokenizer),
        text_2=None if second is None else declare_text(second.tokenizer, SECOND_TOKENIZER),
        added_conditions=None
        if second is None
        else AddedConditions.model_validate(
            {
                "time_ids": time_ids(*(PictureSize.of_base(base).rows_first if size is None else size)),
                "force_zeros_for_empty_prompt": second.force_zeros_for_empty_prompt,
            }
        ),
        vae=declare_vae(base),
        scheduler=scheduler,
        guidance=guidance,
    )


def declare_scheduler(base: Base) -> SchedulerSpec:
    """The noise schedule.

    Raises:
        ExportError: a schedule that the runner does not know.
    """
    config = {**base.scheduler.config, "sigma_spacing": declare_spacing(base)}
    if way_of(base) in TRAILING:
        config["timestep_spacing"] = "trailing"
    return _checked(SchedulerSpec, "the scheduler config", config)


def declare_text(tokenizer: CLIPTokenizerFast, folder: str = "tokenizer") -> TextSpec:
    """A tokenizer's folder and special tokens.

    Raises:
        ExportError: one is absent.
    """
    names = ("bos", "eos", "pad")
    ids = {f"{name}_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    for name in names:
        if ids[f"{name}_id"] is None:
            raise ExportError(
                f"the {folder} has no {name}_token, expected one in tokenizer_config.json; save the tokenizer again"
            )
    return _checked(TextSpec, "the tokenizer", {"folder": folder, **ids, "vectors": vectors_of(tokenizer)})


def declare_vae(base: Base) -> VaeSpec:
    """The latent's scale and shift.

    Raises:
        ExportError: not a positive scale, or a shift that is no number.
    """
    return _checked(VaeSpec, "the VAE's config", dict(base.vae.config))


_FEW_STEPS: dict[Sampling, GuidanceDefaults] = {
    "lcm": GuidanceDefaults(mode="none", guidance_scale=1.0, steps=4, scheduler="lcm"),
    "turbo": GuidanceDefaults(mode="none", guidance_scale=1.0, steps=4, scheduler="euler"),
    "tcd": GuidanceDefaults(mode="none", guidance_scale=1.0, steps=4, scheduler="tcd"),
    "hyper": GuidanceDefaults(mode="none", guidance_scale=1.0, steps=4, scheduler="ddim"),
}


_SDXL = GuidanceDefaults(guidance_scale=5.0)
"""StableDiffusionXLPipeline's own scale."""


def declare_guidance(
    metadata: Mapping[str, str], sampling: Sampling = "standard", *, sdxl: bool = False
) -> GuidanceDefaults:
    """What the adapters' metadata recommends under ``guidance``, a JSON object; else what suits the base.

    Args:
        metadata: of the adapters file.
        sampling: of the base; few-step bases are distilled with their guidance inside.
        sdxl: whether it is SDXL.

    Raises:
        ExportError: the recommendation is not one.
    """
    if "guidance" not in metadata:
        return _FEW_STEPS.get(sampling, _SDXL if sdxl else GuidanceDefaults())
    try:
        return GuidanceDefaults.model_validate(json.loads(metadata["guidance"]))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ExportError(
            f"the adapters' guidance metadata is not usable: {first_line(error)}; save them again"
        ) from error


def _in_few_steps(guidance: GuidanceDefaults, few: FewSteps) -> GuidanceDefaults:
    """The steps and the text's guidance that a LoRA wants; the reference's stay where there is guidance."""
    mode = "none" if few.guidance_scale == 1 else "dual" if guidance.mode == "none" else guidance.mode
    return guidance.model_copy(
        update={"mode": mode, "guidance_scale": few.guidance_scale, "steps": few.steps}
    )


def recommends_sampler(metadata: Mapping[str, str]) -> bool:
    """Whether guidance metadata that `declare_guidance` took names a sampler."""
    return "scheduler" in json.loads(metadata.get("guidance", "{}"))


def _checked(kind: type[Spec], source: str, config: Mapping[str, Any]) -> Spec:
    """The entries of a config that a part of the contract has, checked."""
    try:
        return kind.model_validate(
            {name: config[name] for name in kind.model_fields if config.get(name) is not None}
        )
    except ValidationError as error:
        problem = error.errors()[0]
        entry = ".".join(str(place) for place in problem["loc"]) or "entries"
        shown = "" if problem["type"] == "missing" else f", received {str(problem['input'])[:40]}"
        raise ExportError(
            f"{source} has a wrong {entry} ({problem['msg'][:1].lower()}{problem['msg'][1:]}{shown}); correct it there"
        ) from error
