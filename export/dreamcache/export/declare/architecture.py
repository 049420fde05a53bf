"""What the contract says about a base and its adapters, read off the PyTorch objects."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from pydantic import ValidationError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamcache.export.errors import ExportError
from dreamcache.export.modules.unet import is_topmost
from dreamcache.export.options import EXACT, Approximations
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.distillation import Sampling
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.unet import finish, visits
from dreamcache.runtime.bundle.architecture import Architecture, DeepSpec, SiteSpec
from dreamcache.runtime.bundle.contract import GuidanceDefaults, SchedulerSpec, TextSpec, VaeSpec
from dreamcache.runtime.errors import first_line

_PACKAGES = (
    "dreamcache",
    "torch",
    "diffusers",
    "transformers",
    "optimum-onnx",
    "onnx",
    "onnxruntime",
    "coremltools",
)


def declare_architecture(
    name: str,
    base: Base,
    conditioned: ConditionedUNet,
    resolution: int | None,
    batch: int,
    approximations: Approximations = EXACT,
    max_references: int = 1,
) -> Architecture:
    """Every number that fixes a tensor's shape.

    Args:
        name: of the architecture or the base.
        base: the model.
        conditioned: its UNet with adapters.
        resolution: pixels of the square picture; None is the base's own.
        batch: of the denoiser graph.
        approximations: of attention at the topmost level.
        max_references: how many references it takes at once.

    Raises:
        ExportError: a resolution, batch, pool or number that cannot be, or a UNet that wants two text encoders.
    """
    unet = base.unet
    if unet.config.addition_embed_type is not None:
        raise ExportError(
            f"the UNet wants added conditions ({unet.config.addition_embed_type}, as SDXL does), made by a second "
            "text encoder, and a bundle holds one; export an SD 1.x or 2.x base"
        )
    unit = base.vae_factor * 2**unet.num_upsamplers
    side = int(unet.config.sample_size) * base.vae_factor if resolution is None else resolution
    if side < unit or side % unit != 0:
        raise ExportError(f"resolution is {side} px; this base takes multiples of {unit}")
    if batch < 1:
        raise ExportError(f"batch is {batch}; give 1 or more")
    latent_side = side // base.vae_factor
    for option, cells in asdict(approximations).items():
        if cells < 1 or latent_side % cells:
            raise ExportError(
                f"--{option.replace('_', '-')} is {cells}; give a number that divides the latent's {latent_side} rows"
            )
    if max_references < 1:
        raise ExportError(f"--max-references is {max_references}; give 1 or more")
    sites, deep = _site_specs(base, conditioned, latent_side, approximations.reference_downsample)
    return Architecture(
        name=name,
        latent_channels=int(unet.config.in_channels),
        latent_height=latent_side,
        latent_width=latent_side,
        image_height=side,
        image_width=side,
        text_length=base.text_length,
        text_width=int(base.text_encoder.config.hidden_size),
        batch=batch,
        sites=sites,
        deep=deep,
        key_value_pool=approximations.kv_downsample,
        max_references=max_references,
    )


def declare_scheduler(base: Base) -> SchedulerSpec:
    """The noise schedule.

    Raises:
        ExportError: a schedule that the runner does not know.
    """
    config: dict[str, Any] = dict(base.scheduler.config)
    for field in ("trained_betas", "thresholding"):
        if config.get(field):
            raise ExportError(f"the scheduler config sets {field}, which the runner does not know; remove it")
    fields = {name: config[name] for name in SchedulerSpec.model_fields if config.get(name) is not None}
    try:
        return SchedulerSpec.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ExportError(
            f"the scheduler config's {problem['loc'][0]} is not one the runner knows: {problem['msg']}"
        ) from error


def declare_text(base: Base) -> TextSpec:
    """The tokenizer's special tokens."""
    tokenizer = base.tokenizer
    return TextSpec(
        bos_id=tokenizer.bos_token_id, eos_id=tokenizer.eos_token_id, pad_id=tokenizer.pad_token_id
    )


def declare_vae(base: Base) -> VaeSpec:
    """The latent's scale and shift."""
    return VaeSpec(scaling_factor=base.vae.config.scaling_factor, shift_factor=base.vae.config.shift_factor)


_FEW_STEPS: dict[Sampling, GuidanceDefaults] = {
    "lcm": GuidanceDefaults(mode="none", guidance_scale=1.0, steps=4, scheduler="lcm"),
    "turbo": GuidanceDefaults(mode="none", guidance_scale=1.0, steps=4, scheduler="euler"),
}


def declare_guidance(metadata: dict[str, str], sampling: Sampling = "standard") -> GuidanceDefaults:
    """What the adapters' metadata recommends under ``guidance``, a JSON object; else what suits the base.

    Args:
        metadata: of the adapters file.
        sampling: of the base; few-step bases are distilled with their guidance inside.

    Raises:
        ExportError: the recommendation is not one.
    """
    if "guidance" not in metadata:
        return _FEW_STEPS.get(sampling, GuidanceDefaults())
    try:
        return GuidanceDefaults.model_validate(json.loads(metadata["guidance"]))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ExportError(
            f"the adapters' guidance metadata is not usable: {first_line(error)}; save them again"
        ) from error


def declare_versions() -> dict[str, str]:
    """Versions of what made the bundle; what is not installed as a package is left out."""
    return {package: number for package in _PACKAGES if (number := _version(package)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@torch.no_grad()
def _site_specs(
    base: Base, conditioned: ConditionedUNet, latent_side: int, reference_downsample: int
) -> tuple[tuple[SiteSpec, ...], DeepSpec]:
    """Sites with their token grids, and the shape of the deep features, from a walk that computes shapes alone."""
    wanted = {site.name for site in conditioned.sites}
    unet = base.unet
    grids: dict[str, tuple[int, int]] = {}

    def visit(name: str, transformer: Transformer2DModel, hidden: Tensor, _: Tensor) -> Tensor:
        if name in wanted:
            pool = reference_downsample if is_topmost(unet, transformer) else 1
            grids[name] = (hidden.shape[2] // pool, hidden.shape[3] // pool)
        return hidden

    with FakeTensorMode(allow_non_fake_inputs=True):
        latent = torch.zeros(1, int(unet.config.in_channels), latent_side, latent_side)
        text = torch.zeros(1, base.text_length, int(base.text_encoder.config.hidden_size))
        deep = finish(visits(unet, latent, 0, text), visit).deep
    sites = tuple(
        SiteSpec(
            name=site.name,
            width=site.width,
            heads=conditioned.adapter(site.name).heads,
            token_height=grids[site.name][0],
            token_width=grids[site.name][1],
        )
        for site in conditioned.sites
    )
    last = f"up_blocks.{len(unet.up_blocks) - 1}."
    return sites, DeepSpec(
        channels=deep.shape[1],
        height=deep.shape[2],
        width=deep.shape[3],
        sites=tuple(site.name for site in sites if site.name.startswith(last)),
    )
