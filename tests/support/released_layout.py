"""Adapters as the authors' code saves them, for the tests of their conversion."""

from __future__ import annotations

from torch import Tensor

from dreamcache.models.checkpoint import adapter_state
from dreamcache.models.conditioned import ConditionedUNet

RELEASED_SITES = {
    "middle_block.1": "mid_block.attentions.0",
    "output_blocks.4.1": "up_blocks.1.attentions.1",
    "output_blocks.6.1": "up_blocks.2.attentions.0",
    "output_blocks.8.1": "up_blocks.2.attentions.2",
    "output_blocks.10.1": "up_blocks.3.attentions.1",
}
"""The blocks with a memory in the authors' UNet of Stable Diffusion's shape, and diffusers' names of them."""

_NAMES = {
    "to_q": "attn_mem.to_q",
    "to_k": "attn_mem.to_k",
    "to_v": "attn_mem.to_v",
    "to_out": "attn_mem.to_out.0",
    "norm": "norm2_mem",
    "fuse": "linear_cat",
}


def as_released(model: ConditionedUNet, prefix: str = "diffusion_model.") -> dict[str, Tensor]:
    """The state dict of a ``cross_attention-*.pt`` that holds a model's adapters."""
    blocks = {site: block for block, site in RELEASED_SITES.items()}
    released = {}
    for name, value in adapter_state(model).items():
        site, module, leaf = name.rsplit(".", 2)
        key = f"{prefix}{blocks[site]}.transformer_blocks.0.{_NAMES[module]}.{leaf}"
        released[key] = value.detach().clone()
    return released
