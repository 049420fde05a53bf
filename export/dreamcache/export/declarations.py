"""What the contract says about a base and its adapters, read off the PyTorch objects."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pydantic import ValidationError

from dreamcache.export.errors import ExportError
from dreamcache.models.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.unet import visits
from dreamcache.runtime.contract import GuidanceDefaults, SchedulerSpec, TextSpec, VaeSpec
from dreamcache.runtime.tensors import Architecture, SiteSpec

_PACKAGES = ("dreamcache", "torch", "diffusers", "transformers", "optimum-onnx", "onnx", "onnxruntime")


def declare_architecture(
    name: str, base: Base, conditioned: ConditionedUNet, resolution: int | None, batch: int
) -> Architecture:
    """Every number that fixes a tensor's shape.

    Args:
        name: of the architecture or the base.
        base: the model.
        conditioned: its UNet with adapters.
        resolution: pixels of the square picture; None is the base's own.
        batch: of the denoiser graph.

    Raises:
        ExportError: a resolution or batch that cannot be.
    """
    unet = base.unet
    unit = base.vae_factor * 2**unet.num_upsamplers
    side = int(unet.config.sample_size) * base.vae_factor if resolution is None else resolution
    if side < unit or side % unit != 0:
        raise ExportError(f"resolution is {side} px; this base takes multiples of {unit}")
    if batch < 1:
        raise ExportError(f"batch is {batch}; give 1 or more")
    latent_side = side // base.vae_factor
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
        sites=_site_specs(base, conditioned, latent_side),
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


def declare_guidance(metadata: dict[str, str]) -> GuidanceDefaults:
    """What the adapters' metadata recommends under ``guidance``, a JSON object; else the contract's defaults.

    Raises:
        ExportError: the recommendation is not one.
    """
    if "guidance" not in metadata:
        return GuidanceDefaults()
    try:
        return GuidanceDefaults.model_validate(json.loads(metadata["guidance"]))
    except (ValidationError, json.JSONDecodeError) as error:
        problem = str(error).splitlines()[0]
        raise ExportError(
            f"the adapters' guidance metadata is not usable: {problem}; save them again"
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
def _site_specs(base: Base, conditioned: ConditionedUNet, latent_side: int) -> tuple[SiteSpec, ...]:
    """Sites with their token grids, which follow from how often each level halves the latent."""
    wanted = {site.name: site for site in conditioned.sites}
    grids: dict[str, tuple[int, int]] = {}
    latent = torch.zeros(1, int(base.unet.config.in_channels), latent_side, latent_side)
    text = base.encode_text([""])
    steps = visits(base.unet, latent, 0, text)
    asked = next(steps)
    while len(grids) < len(wanted):
        if asked.name in wanted:
            grids[asked.name] = (int(asked.hidden.shape[2]), int(asked.hidden.shape[3]))
        # Only shapes matter here, and a transformer block keeps them.
        if len(grids) < len(wanted):
            asked = steps.send(asked.hidden)
    steps.close()
    return tuple(
        SiteSpec(
            name=site.name,
            width=site.width,
            heads=conditioned.adapter(site.name).heads,
            token_height=grids[site.name][0],
            token_width=grids[site.name][1],
        )
        for site in conditioned.sites
    )
