"""What is converted: every part of a bundle as a module with the contract's inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamcache.export.declare.components import (
    declare_segmenter,
    declare_text_encoders,
    declare_vae_decoder,
    declare_vae_encoder,
)
from dreamcache.export.modules.decoder import whole_decoder
from dreamcache.export.modules.text_encoder import sdxl_text_encoders
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph, caching_condition
from dreamcache.export.modules.vae_encoder import VaeMean
from dreamcache.export.options import EXACT, Approximations, CoreMLAttention
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.segmenter import load_segmenter
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.architecture import (
    Architecture,
    cache_tensors,
    caching_graph_inputs,
    denoiser_inputs,
    denoiser_outputs,
)
from dreamcache.runtime.bundle.tensors import TensorSpec


@dataclass(frozen=True)
class CoreMLModule:
    """A module with the tensors that it takes and returns, in order."""

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Predicting(nn.Module):
    """The denoiser without the deep features that only step caching reads."""

    def __init__(self, graph: DenoiserGraph) -> None:
        super().__init__()
        self.denoiser = graph

    def forward(self, *inputs: Tensor) -> Tensor:
        return cast(Tensor, self.denoiser(*inputs)[0])


class PromptEncoder(nn.Module):
    """Token ids [1, n] to the prompt's embedding [1, n, c]."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor) -> Tensor:
        return cast(Tensor, self.encoder(ids).last_hidden_state)


class PictureEncoder(VaeMean):
    """Picture [1, 3, H, W] to the mean of its latent."""

    def forward(self, sample: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(sample)["latent_parameters"]


@torch.no_grad()
def unet_modules(
    base: Base,
    conditioned: ConditionedUNet,
    architecture: Architecture,
    attention: CoreMLAttention,
    approximations: Approximations = EXACT,
) -> dict[str, CoreMLModule]:
    """``cache`` and ``denoise``."""
    null = caching_condition(base, conditioned, architecture)
    caching = CachingGraph(conditioned, null.text, attention, approximations, null.added or None)
    denoising = Predicting(DenoiserGraph(conditioned, attention, approximations))
    return {
        "cache": CoreMLModule(caching, caching_graph_inputs(architecture), cache_tensors(architecture)),
        "denoise": CoreMLModule(denoising, denoiser_inputs(architecture), denoiser_outputs(architecture)[:1]),
    }


def component_modules(base: Base, architecture: Architecture) -> dict[str, CoreMLModule]:
    """Text encoders, VAE and, where the base has one, segmenter."""
    declared = declare_text_encoders(base)
    encoders = (
        {"text_encoder": PromptEncoder(base.text_encoder)}
        if base.second is None
        else sdxl_text_encoders(base)
    )
    latent = architecture.latent_height, architecture.latent_width
    modules = {name: (encoder, declared[name]) for name, encoder in encoders.items()} | {
        "vae_encoder": (
            PictureEncoder(base.vae),
            declare_vae_encoder(base.vae, *architecture.reference_latent_shape[2:]),
        ),
        "vae_decoder": (whole_decoder(base.vae, "plain"), declare_vae_decoder(base.vae, *latent)),
    }
    if (trained := load_segmenter(base.path)) is not None:
        modules["segmenter"] = (trained.module, declare_segmenter((trained.size, trained.size)))
    return {
        name: CoreMLModule(module, tensors.inputs, tensors.outputs)
        for name, (module, tensors) in modules.items()
    }
