"""The conditioning adapter: what lets one transformer block read the cached reference.

Source: paper, section 3.3. Spatial concat, the default, is

    m  =  Wo · Attn(Q = Wq · LN_ref(x), K = Wk · c, V = Wv · c) + bo
    x  <- x + Wf · [SelfAttn(LN1(x)) ; m] + bf

with x the block's tokens before its first norm and c the cached tokens: 6d² + 4d parameters. The other three
are the rows of the paper's table of fusions; the paper gives no formulas for them, so their parameter counts
come near the table's and are not equal to it. Every fusion starts as the exact base model.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.models.config import Fusion


class ReferenceAttention(nn.Module):
    """Cross-attention from the picture being made to the cached reference: 4d² + 3d parameters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def attend(self, hidden: Tensor, cache: Tensor, visible: Tensor | None = None) -> Tensor:
        """m of the formula above.

        Args:
            hidden: [b, n, d] tokens that ask.
            cache: [1 or b, m, d] cached tokens; one reference may serve the whole batch.
            visible: bool [1 or b, 1 or n, m], which cached tokens each token may read; None is all.

        Returns:
            [b, n, d].
        """
        query = self._split(self.to_q(self.norm(hidden)))
        key, value = self._split(self.to_k(cache)), self._split(self.to_v(cache))
        if key.shape[0] != query.shape[0]:
            key = key.expand(query.shape[0], -1, -1, -1)
            value = value.expand(query.shape[0], -1, -1, -1)
        mask = None if visible is None else visible[:, None]
        attended = functional.scaled_dot_product_attention(query, key, value, mask)
        return cast(Tensor, self.to_out(attended.transpose(1, 2).flatten(2)))

    def _split(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        return tokens.view(b, n, self.heads, d // self.heads).transpose(1, 2)


class FusionAdapter(ReferenceAttention):
    """An adapter replaces the output of one of the block's attentions.

    Attributes:
        place: ``self``: the output of the self-attention is replaced; ``text``: that of the text
            cross-attention.
    """

    place: ClassVar[Literal["self", "text"]] = "self"

    def forward(self, hidden: Tensor, stock: Tensor, cache: Tensor, visible: Tensor | None = None) -> Tensor:
        """What the block adds to `hidden` in the place of `stock`.

        Args:
            hidden: [b, n, d] the residual stream before the replaced attention (and before its norm).
            stock: [b, n, d] the output of the replaced attention.
            cache: [1 or b, m, d] cached tokens.
            visible: as in `attend`.

        Returns:
            [b, n, d].
        """
        raise NotImplementedError


class ConditioningAdapter(FusionAdapter):
    """Spatial concat, the paper's choice: both attentions are concatenated and projected."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.fuse = nn.Linear(2 * width, width)
        with torch.no_grad():
            # [I, 0]: training starts at the exact base model, and the reference enters as Wf grows.
            self.fuse.weight.zero_()
            self.fuse.weight[:, :width].fill_diagonal_(1.0)
            self.fuse.bias.zero_()

    def forward(self, hidden: Tensor, stock: Tensor, cache: Tensor, visible: Tensor | None = None) -> Tensor:
        return cast(Tensor, self.fuse(torch.cat([stock, self.attend(hidden, cache, visible)], dim=-1)))


class SpatialSumAdapter(FusionAdapter):
    """Spatial sum: the reference attention is added to the self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        _zero(self.to_out)

    def forward(self, hidden: Tensor, stock: Tensor, cache: Tensor, visible: Tensor | None = None) -> Tensor:
        return stock + self.attend(hidden, cache, visible)


class TextualSumAdapter(SpatialSumAdapter):
    """Textual sum: the reference attention is added to the text cross-attention."""

    place = "text"


class DecoupledAdapter(FusionAdapter):
    """Decoupled: after the self-attention a block of its own, reference attention then feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed_in = nn.Linear(width, 8 * width)
        self.feed_out = nn.Linear(4 * width, width)
        _zero(self.to_out)
        _zero(self.feed_out)

    def forward(self, hidden: Tensor, stock: Tensor, cache: Tensor, visible: Tensor | None = None) -> Tensor:
        residual = stock + self.attend(hidden + stock, cache, visible)
        value, gate = self.feed_in(self.feed_norm(hidden + residual)).chunk(2, dim=-1)
        return cast(Tensor, residual + self.feed_out(value * functional.gelu(gate)))


ADAPTERS: dict[Fusion, type[FusionAdapter]] = {
    "spatial_concat": ConditioningAdapter,
    "spatial_sum": SpatialSumAdapter,
    "textual_sum": TextualSumAdapter,
    "decoupled": DecoupledAdapter,
}


def _zero(linear: nn.Linear) -> None:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
