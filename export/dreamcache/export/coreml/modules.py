"""What is converted: every part of a bundle as a module with the contract's tensors at its borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from dreamcache.export.coreml.options import Attention
from dreamcache.export.declare.components import (
    declare_text_encoder,
    declare_vae_decoder,
    declare_vae_encoder,
)
from dreamcache.export.modules.decoder import WholeDecoder
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph
from dreamcache.export.parts.text_and_vae import VaeMean
from dreamcache.models.bases.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.architecture import (
    Architecture,
    TensorSpec,
    cache_tensors,
    caching_graph_inputs,
    denoiser_inputs,
    denoiser_outputs,
)


@dataclass(frozen=True)
class Part:
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
def unet_parts(
    base: Base,
    conditioned: ConditionedUNet,
    architecture: Architecture,
    attention: Attention,
    reference_pool: int = 1,
) -> dict[str, Part]:
    """``cache`` and ``denoise``."""
    text = base.encode_text([conditioned.config.cache_prompt])
    pool = architecture.key_value_pool
    caching = CachingGraph(conditioned, text, attention, pool, reference_pool)
    denoising = Predicting(DenoiserGraph(conditioned, attention, pool))
    return {
        "cache": Part(caching, caching_graph_inputs(architecture), cache_tensors(architecture)),
        "denoise": Part(denoising, denoiser_inputs(architecture), denoiser_outputs(architecture)[:1]),
    }


def other_parts(base: Base, architecture: Architecture) -> dict[str, Part]:
    """Text encoder and VAE."""
    latent = architecture.latent_height, architecture.latent_width
    modules = {
        "text_encoder": (PromptEncoder(base.text_encoder), declare_text_encoder(base)),
        "vae_encoder": (PictureEncoder(base.vae), declare_vae_encoder(base.vae, *latent)),
        "vae_decoder": (WholeDecoder(base.vae, "plain"), declare_vae_decoder(base.vae, *latent)),
    }
    return {
        name: Part(module, borders.inputs, borders.outputs) for name, (module, borders) in modules.items()
    }
