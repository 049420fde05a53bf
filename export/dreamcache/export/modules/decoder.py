"""The VAE decoder as modules for export: whole, and cut at its normalisations to run in strips of rows.

`dreamcache.runtime.bundle.decoder_strips` says what the strips are for. Weights are the decoder's own, so that all
graphs share one weights file. Normalisation is written as one scale and one shift a channel, which are made of the
statistics that come in.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.export.modules.attention import AttentionKind, attend
from dreamcache.models.bases.parts.autoencoder import Autoencoder
from dreamcache.runtime.bundle.decoder_strips import StripKind


def whole_decoder(vae: Autoencoder, attention: AttentionKind) -> nn.Module:
    """latent_sample [1, z, h, w], unscaled, to sample [1, 3, H, W]; TAESD has no attention to write out."""
    return WholeDecoder(vae, attention) if isinstance(vae, AutoencoderKL) else vae.decoder


class WholeDecoder(nn.Module):
    """latent_sample [1, z, h, w], unscaled, to sample [1, 3, H, W]."""

    def __init__(self, vae: AutoencoderKL, attention: AttentionKind) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.decoder = _with_attention(vae.decoder, attention)

    def forward(self, latent: Tensor) -> Tensor:
        if self.post_quant_conv is not None:
            latent = self.post_quant_conv(latent)
        return cast(Tensor, self.decoder(latent))


class DecoderHead(nn.Module):
    """The decoder up to, and without, the upsampler of block `cut`: unscaled latent to features [1, c, h, w]."""

    def __init__(self, vae: AutoencoderKL, attention: AttentionKind, cut: int) -> None:
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        decoder = _with_attention(vae.decoder, attention)
        self.conv_in, self.mid_block = decoder.conv_in, decoder.mid_block
        self.blocks = nn.ModuleList(decoder.up_blocks[:cut])
        self.resnets = cast(UpDecoderBlock2D, decoder.up_blocks[cut]).resnets

    def forward(self, latent: Tensor) -> Tensor:
        if self.post_quant_conv is not None:
            latent = self.post_quant_conv(latent)
        features = self.mid_block(self.conv_in(latent), None)
        for block in self.blocks:
            features = block(features, None)
        for resnet in self.resnets:
            features = resnet(features, None)
        return cast(Tensor, features)


class GivenNorm(nn.Module):
    """GroupNorm and SiLU of features [1, c, rows, w] with statistics [2, groups] that are given."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps = norm.num_groups, norm.eps

    def forward(self, features: Tensor, statistics: Tensor) -> Tensor:
        mean, variance = statistics[0:1].reshape(-1, 1), statistics[1:2].reshape(-1, 1)
        scale = self.weight.reshape(self.groups, -1) * torch.rsqrt(variance + self.eps)
        shift = self.bias.reshape(self.groups, -1) - mean * scale
        normed = features * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)
        return functional.silu(normed)


class Strip(nn.Module):
    """One graph of the strips; inputs and outputs as `dreamcache.runtime.bundle.decoder_strips` declares them.

    Args:
        groups: of the normalisation that follows; None when none does.
    """

    def __init__(self, groups: int | None) -> None:
        super().__init__()
        self.groups = groups

    def give(self, result: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Results in the declared order, with the sums that the next normalisation wants."""
        return (result, *more) if self.groups is None else (result, *more, row_sums(result, self.groups))


class UpsampleStrip(Strip):
    def __init__(self, upsampler: Upsample2D, groups: int | None) -> None:
        super().__init__(groups)
        self.conv = upsampler.conv

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return self.give(self.conv(functional.interpolate(features, scale_factor=2.0, mode="nearest")))


class FirstConvolution(Strip):
    def __init__(self, resnet: ResnetBlock2D, groups: int | None) -> None:
        super().__init__(groups)
        self.norm, self.conv = GivenNorm(resnet.norm1), resnet.conv1
        self.shortcut = resnet.conv_shortcut

    def forward(self, features: Tensor, statistics: Tensor) -> tuple[Tensor, ...]:
        shortcut = () if self.shortcut is None else (self.shortcut(features),)
        return self.give(self.conv(self.norm(features, statistics)), *shortcut)


class SecondConvolution(Strip):
    def __init__(self, resnet: ResnetBlock2D, groups: int | None) -> None:
        super().__init__(groups)
        self.norm, self.conv = GivenNorm(resnet.norm2), resnet.conv2

    def forward(self, features: Tensor, residual: Tensor, statistics: Tensor) -> tuple[Tensor, ...]:
        return self.give(residual + self.conv(self.norm(features, statistics)))


class OutputConvolution(Strip):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__(None)
        self.norm, self.conv = GivenNorm(cast(nn.GroupNorm, decoder.conv_norm_out)), decoder.conv_out

    def forward(self, features: Tensor, statistics: Tensor) -> tuple[Tensor, ...]:
        return self.give(self.conv(self.norm(features, statistics)))


def row_sums(features: Tensor, groups: int) -> Tensor:
    """[2, groups, rows]: sum and sum of squares over each group's channels and columns."""
    _, channels, rows, _ = features.shape
    # Along the columns first: that reduction is contiguous, and leaves little to the other.
    sums = torch.cat([features.sum(dim=3), (features * features).sum(dim=3)])
    return sums.reshape(2, groups, channels // groups, rows).sum(dim=2)


@dataclass(frozen=True)
class CutStrip:
    """A strip graph before export.

    kind: as the contract has it. channels: of the features it reads. out_channels: of its result.
    scale: how often the latent's side goes into its map's. groups: of its normalisation, 0 without one.
    """

    kind: StripKind
    module: Strip
    channels: int
    out_channels: int
    scale: int
    groups: int


def can_cut(vae: AutoencoderKL) -> bool:
    """Whether the decoder is Stable Diffusion's kind: blocks of residual layers, group norms, SiLU."""
    decoder = vae.decoder
    blocks = list(decoder.up_blocks)
    if not all(isinstance(block, UpDecoderBlock2D) for block in blocks):
        return False
    resnets = [resnet for block in blocks for resnet in cast(UpDecoderBlock2D, block).resnets]
    norms = [decoder.conv_norm_out, *(norm for resnet in resnets for norm in (resnet.norm1, resnet.norm2))]
    upsamplers = [up for block in blocks[:-1] for up in cast(UpDecoderBlock2D, block).upsamplers]
    return (
        all(isinstance(norm, nn.GroupNorm) and norm.weight is not None for norm in norms)
        and all(isinstance(resnet.nonlinearity, nn.SiLU) for resnet in resnets)
        and all(resnet.output_scale_factor == 1.0 and resnet.time_emb_proj is None for resnet in resnets)
        and all(resnet.upsample is None and resnet.downsample is None for resnet in resnets)
        and all(up.norm is None and not up.use_conv_transpose and up.use_conv for up in upsamplers)
    )


def cut_strips(vae: AutoencoderKL, cut: int) -> Iterator[CutStrip]:
    """Everything after `DecoderHead` with the same cut."""
    decoder, scale = vae.decoder, 2**cut
    blocks = [cast(UpDecoderBlock2D, block) for block in decoder.up_blocks]
    out_norm = cast(nn.GroupNorm, decoder.conv_norm_out)
    for i in range(cut, len(blocks) - 1):
        upsampler = cast(Upsample2D, cast(nn.ModuleList, blocks[i].upsamplers)[0])
        resnets = [cast(ResnetBlock2D, resnet) for resnet in blocks[i + 1].resnets]
        groups = resnets[0].norm1.num_groups
        width = cast(nn.Conv2d, upsampler.conv).out_channels
        yield CutStrip("upsample", UpsampleStrip(upsampler, groups), width, width, scale, 0)
        scale *= 2
        # A block's last layer is followed by an upsampler, which no norm precedes, or by the decoder's own.
        last = out_norm.num_groups if i + 1 == len(blocks) - 1 else None
        following = [resnet.norm1.num_groups for resnet in resnets[1:]]
        for resnet, after in zip(resnets, [*following, last], strict=True):
            channels, out = resnet.conv1.in_channels, resnet.conv1.out_channels
            first = FirstConvolution(resnet, resnet.norm2.num_groups)
            yield CutStrip("first_convolution", first, channels, out, scale, resnet.norm1.num_groups)
            second = SecondConvolution(resnet, after)
            yield CutStrip("second_convolution", second, out, out, scale, resnet.norm2.num_groups)
    out = decoder.conv_out
    yield CutStrip(
        "output", OutputConvolution(decoder), out.in_channels, out.out_channels, scale, out_norm.num_groups
    )


class _MiddleAttention:
    """diffusers' attention processor for a VAE's middle block, with attention written by `attend`."""

    def __init__(self, kind: AttentionKind) -> None:
        self.kind = kind

    def __call__(
        self,
        attention: Attention,
        hidden: Tensor,
        temb: Tensor | None = None,  # noqa: ARG002 (diffusers warns where a processor does not take it)
        **_: object,
    ) -> Tensor:
        b, c, h, w = hidden.shape
        tokens = attention.group_norm(hidden.reshape(b, c, h * w)).transpose(1, 2)
        query, key, value = attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
        attended = attention.to_out[0](attend(query, key, value, attention.heads, self.kind))
        return cast(Tensor, attended.transpose(1, 2).reshape(b, c, h, w) + hidden)


def _with_attention(decoder: Decoder, kind: AttentionKind) -> Decoder:
    """A copy of the decoder that shares every weight, with its attention written out."""
    shared = {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())}
    copied = cast(Decoder, copy.deepcopy(decoder, shared))
    for module in copied.modules():
        if isinstance(module, Attention) and _is_plain(module):
            module.set_processor(_MiddleAttention(kind))
    return copied


def _is_plain(attention: Attention) -> bool:
    return (
        attention.group_norm is not None
        and attention.spatial_norm is None
        and attention.norm_q is None
        and attention.norm_k is None
        and attention.residual_connection
        and attention.rescale_output_factor == 1.0
    )
