"""Copies of a UNet that share its every weight, with modules replaced by what an export wants in their place."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import cast

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.export.modules.attention import AttentionKind
from dreamcache.export.modules.token_layouts import put_channels_first
from dreamcache.models.walk.transformer import as_picture, as_tokens
from dreamcache.models.walk.unet import time_embedding


class Constant(nn.Module):
    """A layer whose result is known."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value, requires_grad=False)

    def forward(self, _: Tensor) -> Tensor:
        return self.value


class Pointwise(nn.Module):
    """A 1 × 1 convolution as the matrix product that it is: tokens [b, n, d] to [b, n, e].

    Products keep more precision in 8 bits than convolutions, since each activation is quantised by its own range.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        assert convolution.kernel_size == (1, 1)
        assert convolution.groups == 1
        self.weight = nn.Parameter(convolution.weight.detach().flatten(1), requires_grad=False)
        self.bias = convolution.bias

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(tokens, self.weight, self.bias)


class PointwisePicture(Pointwise):
    """The same product on a picture [b, d, h, w]."""

    def forward(self, picture: Tensor) -> Tensor:
        return as_picture(super().forward(as_tokens(picture)), picture)


class SplitGeglu(nn.Module):
    """diffusers' GEGLU with a product for each half: tokens [b, n, d] to [b, n, e], where the one gives [b, n, 2e].

    The widest tensor of a block is then never copied in halves.
    """

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        self.value, self.gate = _halves(layer.proj)

    def forward(self, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.value(tokens) * gelu(self.gate(tokens)))


def gelu(x: Tensor) -> Tensor:
    """GELU with its factors in the order that ONNX Runtime knows as one operator (its GeluFusion, second pattern)."""
    return x * (1 + torch.erf(x / math.sqrt(2))) * 0.5


def _halves(layer: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """Layers for the first and the last half of what a layer gives, of the same memory."""
    first, last = (nn.Linear(layer.in_features, layer.out_features // 2, device="meta") for _ in range(2))
    for name, parameter in (("weight", layer.weight), ("bias", layer.bias)):
        for half, values in zip(
            (first, last), (None, None) if parameter is None else parameter.chunk(2), strict=True
        ):
            setattr(half, name, None if values is None else nn.Parameter(values, requires_grad=False))
    return first, last


@torch.no_grad()
def copy_with_products(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Transformer blocks project tokens (`Pointwise` or a linear layer, GEGLU halved), and shortcuts are products."""
    copied = _sharing_copy(unet)
    for module in list(copied.modules()):
        if isinstance(module, FeedForward) and isinstance(module.net[0], GEGLU):
            module.net[0] = SplitGeglu(module.net[0])
        if isinstance(module, Transformer2DModel) and not module.use_linear_projection:
            module.proj_in, module.proj_out = Pointwise(module.proj_in), Pointwise(module.proj_out)
        if isinstance(module, ResnetBlock2D) and module.conv_shortcut is not None:
            module.conv_shortcut = PointwisePicture(module.conv_shortcut)
    return copied


@torch.no_grad()
def copy_for_attention(unet: UNet2DConditionModel, kind: AttentionKind) -> UNet2DConditionModel:
    """The copy whose transformer blocks take tokens as a kind of attention does."""
    if kind != "split_einsum":
        return copy_with_products(unet)
    copied = _sharing_copy(unet)
    for module in copied.modules():
        if isinstance(module, Transformer2DModel):
            put_channels_first(module)
    return copied


@torch.no_grad()
def copy_at_timestep(
    unet: UNet2DConditionModel,
    timestep: int,
    text: Tensor,
    added: Mapping[str, Tensor] | None,
    kind: AttentionKind = "plain",
) -> UNet2DConditionModel:
    """As `copy_for_attention`, with the time projections replaced by their results at one timestep."""
    sample = torch.zeros(1, 1, 1, 1, dtype=unet.dtype, device=unet.device)
    embedding = time_embedding(unet, sample, timestep, text, added)
    copied = copy_for_attention(unet, kind)
    for module in copied.modules():
        if isinstance(module, ResnetBlock2D) and module.time_emb_proj is not None:
            activated = embedding if module.skip_time_act else module.nonlinearity(embedding)
            module.time_emb_proj = Constant(module.time_emb_proj(activated))
    return copied


def _sharing_copy(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    shared = {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())}
    return cast(UNet2DConditionModel, copy.deepcopy(unet, shared))
