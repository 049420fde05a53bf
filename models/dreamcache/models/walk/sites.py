"""Which transformer blocks of a UNet are tapped (paper, section 3.2 and its table of sites).

The rule: the middle block, and every second transformer block of the decoder counted from the middle
(the 2nd, 4th, ... in execution order). The encoder, where an ablation asks for it, is counted from the
middle too, so outwards: the last but one, the last but three, ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    CrossAttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
    UNetMidBlock2DCrossAttn,
    UpBlock2D,
)
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from dreamcache.models.config import SiteSet
from dreamcache.models.errors import AdapterError

_DOWN = (CrossAttnDownBlock2D, DownBlock2D)
_MIDDLE = (UNetMidBlock2DCrossAttn, UNetMidBlock2D)
_UP = (CrossAttnUpBlock2D, UpBlock2D)


@dataclass(frozen=True)
class Site:
    """One tapped `Transformer2DModel`.

    Attributes:
        name: its module path inside the UNet, such as ``up_blocks.1.attentions.1``.
        width: channels of the hidden state that enters it, and of its tokens.
    """

    name: str
    width: int


def find_sites(unet: UNet2DConditionModel, site_set: SiteSet = "middle+decoder") -> tuple[Site, ...]:
    """The tapped sites of any supported UNet, in the order in which they run.

    Raises:
        AdapterError: the UNet has blocks that this package cannot walk, or no transformer block where
            the site set wants one.
    """
    check_supported(unet)
    encoder = [
        named
        for i, block in enumerate(unet.down_blocks)
        for named in _transformers(block, f"down_blocks.{i}")
    ]
    middle = list(_transformers(unet.mid_block, "mid_block"))
    decoder = [
        named for i, block in enumerate(unet.up_blocks) for named in _transformers(block, f"up_blocks.{i}")
    ]
    outwards = list(reversed(encoder))
    tapped_encoder = list(reversed(outwards[1::2]))
    tapped_decoder = decoder[1::2]
    chosen = {
        "middle+decoder": middle + tapped_decoder,
        "middle": middle,
        "decoder": tapped_decoder,
        "encoder": tapped_encoder,
        "all": tapped_encoder + middle + tapped_decoder,
    }[site_set]
    if not chosen:
        raise AdapterError(
            f"site set {site_set!r} taps nothing in this UNet ({len(encoder)} encoder, {len(middle)} middle, "
            f"{len(decoder)} decoder transformer blocks); choose another site set"
        )
    return tuple(Site(name, _width(name, transformer)) for name, transformer in chosen)


def check_supported(unet: UNet2DConditionModel) -> None:
    """Refuse a UNet that `dreamcache.models.walk.unet.walk` would not reproduce bit for bit.

    Raises:
        AdapterError: names the block or the config field in the way.
    """
    config = unet.config
    for i, block in enumerate(unet.down_blocks):
        _check_block(f"down_blocks.{i}", block, _DOWN)
    if unet.mid_block is not None:
        _check_block("mid_block", unet.mid_block, _MIDDLE)
        if isinstance(unet.mid_block, UNetMidBlock2D) and any(
            attention is not None for attention in unet.mid_block.attentions
        ):
            raise AdapterError(
                "mid_block has attention without text; use a UNet of Stable Diffusion's blocks"
            )
    for i, block in enumerate(unet.up_blocks):
        _check_block(f"up_blocks.{i}", block, _UP)
        if any(getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")):
            raise AdapterError(f"up_blocks.{i} has FreeU enabled; call unet.disable_freeu() first")
    if unet.class_embedding is not None:
        raise AdapterError(
            f"the UNet wants class labels (class_embed_type {config.class_embed_type!r}, "
            f"num_class_embeds {config.num_class_embeds!r}); use a UNet without them"
        )
    for field, allowed in (
        ("addition_embed_type", (None, "text_time")),
        ("encoder_hid_dim_type", (None, "text_proj")),
        ("attention_type", ("default",)),
        ("dual_cross_attention", (False,)),
        ("class_embeddings_concat", (False,)),
    ):
        if config[field] not in allowed:
            raise AdapterError(
                f"the UNet's {field} is {config[field]!r}, expected one of {allowed}; use another UNet"
            )
    only_cross = config.only_cross_attention
    if only_cross if isinstance(only_cross, bool) else any(only_cross):
        raise AdapterError(
            "the UNet has blocks without self-attention (only_cross_attention), which adapters join; use another UNet"
        )


def _check_block(name: str, block: nn.Module, supported: tuple[type[nn.Module], ...]) -> None:
    if type(block) not in supported:
        names = ", ".join(kind.__name__ for kind in supported)
        raise AdapterError(f"{name} is a {type(block).__name__}, expected {names}; use another UNet")


def _transformers(block: nn.Module | None, name: str) -> Iterator[tuple[str, Transformer2DModel]]:
    for i, transformer in enumerate(getattr(block, "attentions", ())):
        if transformer is not None:
            yield f"{name}.attentions.{i}", transformer


def _width(name: str, transformer: Transformer2DModel) -> int:
    width, inner = int(transformer.in_channels), int(transformer.inner_dim)
    if width != inner:
        raise AdapterError(
            f"{name} takes {width} channels but its tokens have {inner}; "
            "use a UNet whose attention heads fill the block's width"
        )
    return width
