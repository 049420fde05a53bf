"""An adapter folded into its block's output projection, for export (see `unet`)."""

from __future__ import annotations

from typing import cast

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from dreamcache.export.modules.attention import AttentionKind, attend
from dreamcache.export.modules.token_layouts import layout_of
from dreamcache.models.adapter import ConditioningAdapter


class FoldedAdapter(nn.Module):
    """A tapped block's self-attention and adapter, their output projections folded into [A | B] and c."""

    def __init__(
        self, adapter: ConditioningAdapter, block: BasicTransformerBlock, attention: AttentionKind
    ) -> None:
        super().__init__()
        self.attention = attention
        self.heads = adapter.heads
        layout = layout_of(attention)
        self.channels = layout.channels
        self.norm = layout.norm(adapter.norm)
        self.to_q = layout.linear(adapter.to_q)
        width = adapter.to_out.out_features
        delta = nn.Linear(2 * width, width)
        own, reference = block.attn1.to_out[0], adapter.to_out
        with torch.no_grad():
            # In double precision: these products are made once and used in every step.
            fuse = adapter.fuse.weight.double()
            change = fuse[:, :width] - torch.eye(width, dtype=fuse.dtype, device=fuse.device)
            second = fuse[:, width:]
            weight = torch.cat([change @ own.weight.double(), second @ reference.weight.double()], dim=1)
            bias = second @ reference.bias.double() + adapter.fuse.bias.double()
            if own.bias is not None:
                bias = bias + change @ own.bias.double()
            delta.weight.copy_(weight)
            delta.bias.copy_(bias)
        self.delta = layout.linear(delta)

    def forward(self, tokens: Tensor, own: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Δ [b, n, d] of a block's input `tokens`, its self-attention `own`, and keys and values [1, m, d]."""
        reference = attend(self.to_q(self.norm(tokens)), key, value, self.heads, self.attention)
        return cast(Tensor, self.delta(torch.cat([own, reference], dim=self.channels)))
