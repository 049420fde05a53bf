"""What is converted: every part of a bundle as a module with the contract's tensors at its borders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dreamcache.export.components import VaeMean
from dreamcache.export.decoder_graphs import WholeDecoder
from dreamcache.export.graphs import CachingGraph, DenoiserGraph
from dreamcache.models.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.contract import Graphs
from dreamcache.runtime.tensors import (
    Architecture,
    TensorSpec,
    caching_graph_inputs,
    caching_graph_outputs,
    denoiser_inputs,
    denoiser_outputs,
)

Attention = Literal["plain", "split_einsum"]
UNET = ("cache", "denoise")
"""The two functions of the UNet's package."""


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
        "cache": Part(caching, caching_graph_inputs(architecture), caching_graph_outputs(architecture)),
        "denoise": Part(denoising, denoiser_inputs(architecture), denoiser_outputs(architecture)[:1]),
    }


def other_parts(base: Base, graphs: Graphs) -> dict[str, Part]:
    """Text encoder and VAE, by the names of their packages; the borders are those of the ONNX graphs."""
    modules = {
        "TextEncoder": (PromptEncoder(base.text_encoder), graphs.text_encoder),
        "VAEEncoder": (PictureEncoder(base.vae), graphs.vae_encoder),
        "VAEDecoder": (WholeDecoder(base.vae, "plain"), graphs.vae_decoder),
    }
    return {name: Part(module, spec.inputs, spec.outputs) for name, (module, spec) in modules.items()}
