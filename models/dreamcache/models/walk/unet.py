"""One explicit walk through a `UNet2DConditionModel`, with the transformer blocks left to the caller.

Source: the order of operations of `UNet2DConditionModel.forward` in diffusers 0.39. Everything but the
transformer blocks is computed by diffusers' own modules, so the stock walk equals diffusers bit for bit.
There are no hooks: the walk is a generator that hands out each transformer block and takes back its
result, and a caller that needs nothing after some block (the caching pass) just stops asking.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, cast

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from dreamcache.models.walk.sites import check_supported


class Visit(NamedTuple):
    """A transformer block about to run.

    Attributes:
        name: module path of the block inside the UNet.
        transformer: the block.
        hidden: [b, d, h, w] its input, before its norm and projection.
        text: [b, n, c] what its cross-attention reads.
    """

    name: str
    transformer: Transformer2DModel
    hidden: Tensor
    text: Tensor


class Walked(NamedTuple):
    """What a finished walk leaves.

    Attributes:
        prediction: [b, z, h, w] noise or velocity, whatever the UNet was trained to predict.
        deep: [b, c, h', w'] what entered the last decoder block: all that lies below the topmost level, which
            step caching reuses (DeepCache, Ma et al. 2023).
    """

    prediction: Tensor
    deep: Tensor


Compute = Callable[..., Tensor]
"""Runs a function or module on its inputs: plainly (`call`), or so that backwards it is computed again."""

TransformerVisitor = Callable[[str, Transformer2DModel, Tensor, Tensor], Tensor]
Part = Generator[Visit, Tensor, Tensor]
Walk = Generator[Visit, Tensor, Walked]


def stock(name: str, transformer: Transformer2DModel, hidden: Tensor, text: Tensor) -> Tensor:
    """The visitor that runs a block as diffusers does: [b, d, h, w] to [b, d, h, w]."""
    del name
    return cast(Tensor, transformer(hidden, encoder_hidden_states=text, return_dict=False)[0])


def call(function: Compute, *inputs: Any) -> Tensor:
    """Compute plainly."""
    return function(*inputs)


def walk(
    unet: UNet2DConditionModel,
    latent: Tensor,
    timestep: Tensor | float | int,
    text: Tensor,
    visit: TransformerVisitor = stock,
    added: Mapping[str, Tensor] | None = None,
    compute: Compute = call,
) -> Tensor:
    """Predict with `visit` in the place of every transformer block.

    Args:
        unet: any UNet that `dreamcache.models.walk.sites.check_supported` accepts.
        latent: [b, z, h, w].
        timestep: a number, or a tensor [] or [b].
        text: [b, n, c] prompt embedding.
        visit: computes a transformer block; by default as diffusers does.
        added: for UNets with ``addition_embed_type="text_time"`` (SDXL): ``text_embeds`` [b, p] and
            ``time_ids`` [b, 6].
        compute: runs the residual blocks.

    Returns:
        [b, z, h, w]: noise or velocity, whatever the UNet was trained to predict.

    Raises:
        AdapterError: the UNet cannot be walked.
    """
    return finish(visits(unet, latent, timestep, text, added, compute), visit).prediction


def finish(steps: Walk, visit: TransformerVisitor) -> Walked:
    """Answer every transformer block of a walk with `visit`, to its end."""
    try:
        asked = next(steps)
        while True:
            asked = steps.send(visit(asked.name, asked.transformer, asked.hidden, asked.text))
    except StopIteration as end:
        return cast(Walked, end.value)


def visits(
    unet: UNet2DConditionModel,
    latent: Tensor,
    timestep: Tensor | float | int,
    text: Tensor,
    added: Mapping[str, Tensor] | None = None,
    compute: Compute = call,
) -> Walk:
    """The walk as a generator: yields each transformer block, is sent its result, returns `Walked`."""
    check_supported(unet)
    sizes = _upsample_sizes(unet, latent)
    if unet.config.center_input_sample:
        latent = 2 * latent - 1.0
    embedding = time_embedding(unet, latent, timestep, text, added)
    text = unet.process_encoder_hidden_states(encoder_hidden_states=text, added_cond_kwargs=added)
    hidden = unet.conv_in(latent)
    skips = [hidden]
    for i, block in enumerate(unet.down_blocks):
        hidden = yield from _down(block, f"down_blocks.{i}", hidden, embedding, text, skips, compute)
    if unet.mid_block is not None:
        hidden = yield from _middle(unet.mid_block, hidden, embedding, text, compute)
    deep = hidden
    for i, block in enumerate(unet.up_blocks):
        deep = hidden
        size = skips[-len(block.resnets) - 1].shape[2:] if sizes and i < len(unet.up_blocks) - 1 else None
        hidden = yield from _up(block, f"up_blocks.{i}", hidden, embedding, text, skips, size, compute)
    if unet.conv_norm_out:
        hidden = unet.conv_act(unet.conv_norm_out(hidden))
    return Walked(unet.conv_out(hidden), deep)


def time_embedding(
    unet: UNet2DConditionModel,
    latent: Tensor,
    timestep: Tensor | float | int,
    text: Tensor,
    added: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """What every residual block adds: [b, e], from the timestep and, for SDXL, the added conditions."""
    embedding = unet.time_embedding(unet.get_time_embed(sample=latent, timestep=timestep), None)
    extra = unet.get_aug_embed(emb=embedding, encoder_hidden_states=text, added_cond_kwargs=dict(added or {}))
    if extra is not None:
        embedding = embedding + extra
    if unet.time_embed_act is not None:
        embedding = unet.time_embed_act(embedding)
    return cast(Tensor, embedding)


def _upsample_sizes(unet: UNet2DConditionModel, latent: Tensor) -> bool:
    """Whether the decoder must be told the sizes: the latent does not halve evenly at every level."""
    return any(size % 2**unet.num_upsamplers != 0 for size in latent.shape[-2:])


def _pairs(block: nn.Module) -> list[tuple[nn.Module, Transformer2DModel | None]]:
    resnets = list(cast(nn.ModuleList, block.resnets))
    attentions = list(getattr(block, "attentions", ())) or [None] * len(resnets)
    return list(zip(resnets, attentions, strict=True))


def _down(
    block: nn.Module,
    name: str,
    hidden: Tensor,
    embedding: Tensor,
    text: Tensor,
    skips: list[Tensor],
    compute: Compute,
) -> Part:
    for i, (resnet, transformer) in enumerate(_pairs(block)):
        hidden = compute(resnet, hidden, embedding)
        if transformer is not None:
            hidden = yield Visit(f"{name}.attentions.{i}", transformer, hidden, text)
        skips.append(hidden)
    if block.downsamplers is not None:
        for downsampler in cast(nn.ModuleList, block.downsamplers):
            hidden = downsampler(hidden)
        skips.append(hidden)
    return hidden


def _middle(block: nn.Module, hidden: Tensor, embedding: Tensor, text: Tensor, compute: Compute) -> Part:
    first, *rest = cast(nn.ModuleList, block.resnets)
    hidden = compute(first, hidden, embedding)
    # A middle block without attention (UNetMidBlock2D) holds None in the place of each transformer block.
    for i, (transformer, resnet) in enumerate(zip(cast(nn.ModuleList, block.attentions), rest, strict=True)):
        if transformer is not None:
            asked = Visit(f"mid_block.attentions.{i}", cast(Transformer2DModel, transformer), hidden, text)
            hidden = yield asked
        hidden = compute(resnet, hidden, embedding)
    return hidden


def _up(
    block: nn.Module,
    name: str,
    hidden: Tensor,
    embedding: Tensor,
    text: Tensor,
    skips: list[Tensor],
    size: torch.Size | None,
    compute: Compute,
) -> Part:
    for i, (resnet, transformer) in enumerate(_pairs(block)):
        hidden = compute(resnet, torch.cat([hidden, skips.pop()], dim=1), embedding)
        if transformer is not None:
            hidden = yield Visit(f"{name}.attentions.{i}", transformer, hidden, text)
    if block.upsamplers is not None:
        for upsampler in cast(nn.ModuleList, block.upsamplers):
            hidden = upsampler(hidden, size)
    return hidden
