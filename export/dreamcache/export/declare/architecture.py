"""What the contract says about a base and its adapters, read off the PyTorch objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamcache.export.declare.sizes import PictureSize
from dreamcache.export.errors import ExportError
from dreamcache.export.modules.unet import is_topmost, transformers_of
from dreamcache.export.options import EXACT, Approximations
from dreamcache.models.bases.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.walk.unet import finish, visits
from dreamcache.runtime.bundle.architecture import TIME_IDS, Architecture, DeepSpec, ReferenceSpec, SiteSpec
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
    size: PictureSize | None,
    batch: int,
    approximations: Approximations = EXACT,
    max_references: int = 1,
) -> Architecture:
    """Every number that fixes a tensor's shape.

    Args:
        name: of the architecture or the base.
        base: the model.
        conditioned: its UNet with adapters.
        size: of the picture; None is the base's own. The reference is a square of its shorter side, since the paper
            frames the subject so, and the adapters saw nothing else.
        batch: of the denoiser graph.
        approximations: of attention at the topmost level.
        max_references: how many references it takes at once.

    Raises:
        ExportError: a size, batch, pool or number that cannot be.
    """
    unet = base.unet
    picture = PictureSize.of_base(base) if size is None else size
    picture.check_halves(base)
    if batch < 1:
        raise ExportError(f"batch is {batch}; give 1 or more")
    height, width, side = (
        pixels // base.vae_factor for pixels in (picture.height, picture.width, picture.side)
    )
    for option, cells in asdict(approximations).items():
        if cells < 1 or height % cells or width % cells:
            raise ExportError(
                f"--{option.replace('_', '-')} is {cells}; give a number that divides the latent's {height} rows"
                + ("" if picture.is_square else f" and {width} columns")
            )
        if cells > 1 and not any(is_topmost(unet, block) for block in transformers_of(unet)):
            raise ExportError(
                f"--{option.replace('_', '-')} is {cells}; this UNet has no attention at its topmost level to "
                "approximate, as SDXL's has none: leave it out"
            )
    if max_references < 1:
        raise ExportError(f"--max-references is {max_references}; give 1 or more")
    grids, _ = _walked(base, conditioned, (side, side), approximations.reference_downsample)
    _, deep = _walked(base, conditioned, (height, width))
    sites = _site_specs(conditioned, grids)
    return Architecture(
        name=name,
        latent_channels=int(unet.config.in_channels),
        latent_height=height,
        latent_width=width,
        image_height=picture.height,
        image_width=picture.width,
        text_length=base.text_length,
        text_width=base.text_width,
        batch=batch,
        sites=sites,
        deep=_deep_spec(base, sites, deep),
        key_value_pool=approximations.kv_downsample,
        max_references=max_references,
        reference=None
        if picture.is_square
        else ReferenceSpec(
            latent_height=side, latent_width=side, image_height=picture.side, image_width=picture.side
        ),
        pooled_width=None if base.second is None else int(base.second.encoder.config.projection_dim),
        text_chunks=base.text_chunks,
    )


def declare_versions() -> dict[str, str]:
    """Versions of what made the bundle; what is not installed as a package is left out."""
    return {package: number for package in _PACKAGES if (number := _version(package)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@torch.no_grad()
def _walked(
    base: Base, conditioned: ConditionedUNet, latent_size: tuple[int, int], reference_downsample: int = 1
) -> tuple[dict[str, tuple[int, int]], tuple[int, ...]]:
    """Token grid of each site, and the shape of the deep features, from a walk that computes shapes alone.

    Args:
        base: the model.
        conditioned: its UNet with adapters.
        latent_size: rows and columns.
        reference_downsample: of the topmost level's tokens.
    """
    wanted = {site.name for site in conditioned.sites}
    unet = base.unet
    grids: dict[str, tuple[int, int]] = {}

    def visit(name: str, transformer: Transformer2DModel, hidden: Tensor, _: Tensor) -> Tensor:
        if name in wanted:
            pool = reference_downsample if is_topmost(unet, transformer) else 1
            grids[name] = (hidden.shape[2] // pool, hidden.shape[3] // pool)
        return hidden

    with FakeTensorMode(allow_non_fake_inputs=True):
        latent = torch.zeros(1, int(unet.config.in_channels), *latent_size)
        text = torch.zeros(1, base.text_length, base.text_width)
        added = None
        if base.second is not None:
            pooled = torch.zeros(1, int(base.second.encoder.config.projection_dim))
            added = {"text_embeds": pooled, "time_ids": torch.zeros(1, TIME_IDS)}
        try:
            deep = finish(visits(unet, latent, 0, text, added), visit).deep
        except (RuntimeError, TypeError, ValueError) as error:
            raise ExportError(
                f"the UNet's layers do not fit each other ({first_line(error)}), so that diffusers draws nothing; "
                "correct its config.json, or give another base"
            ) from error
    return grids, tuple(deep.shape)


def _site_specs(conditioned: ConditionedUNet, grids: Mapping[str, tuple[int, int]]) -> tuple[SiteSpec, ...]:
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


def _deep_spec(base: Base, sites: Sequence[SiteSpec], shape: tuple[int, ...]) -> DeepSpec:
    last = f"up_blocks.{len(base.unet.up_blocks) - 1}."
    return DeepSpec(
        channels=shape[1],
        height=shape[2],
        width=shape[3],
        sites=tuple(site.name for site in sites if site.name.startswith(last)),
    )
