"""The parts of a `Transformer2DModel`, so that its first block can be computed with something added.

Source: `Transformer2DModel` (continuous input) and `BasicTransformerBlock` (layer norm) in diffusers 0.39.
The adapter and the exporter both replace attention inside a block and share the rest from here.
"""

from __future__ import annotations

from typing import cast

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor


def enter(transformer: Transformer2DModel, hidden: Tensor) -> Tensor:
    """Norm and input projection: [b, d, h, w] to tokens [b, h*w, d]."""
    normed = transformer.norm(hidden)
    if transformer.use_linear_projection:
        return cast(Tensor, transformer.proj_in(as_tokens(normed)))
    return as_tokens(transformer.proj_in(normed))


def leave(transformer: Transformer2DModel, tokens: Tensor, hidden: Tensor) -> Tensor:
    """Output projection and residual: tokens [b, h*w, d] and the input [b, d, h, w] to [b, d, h, w]."""
    if transformer.use_linear_projection:
        projected = as_picture(transformer.proj_out(tokens), hidden)
    else:
        projected = transformer.proj_out(as_picture(tokens, hidden))
    return projected + hidden


def as_tokens(hidden: Tensor) -> Tensor:
    """[b, d, h, w] to [b, h*w, d]."""
    b, d, h, w = hidden.shape
    return hidden.permute(0, 2, 3, 1).reshape(b, h * w, d)


def as_picture(tokens: Tensor, like: Tensor) -> Tensor:
    """[b, h*w, d] to [b, d, h, w] with the height and width of `like`."""
    b, _, h, w = like.shape
    return tokens.reshape(b, h, w, tokens.shape[-1]).permute(0, 3, 1, 2).contiguous()


def feed_forward(block: BasicTransformerBlock, tokens: Tensor) -> Tensor:
    """The block's last third with its residual: [b, n, d] to [b, n, d]."""
    return cast(Tensor, block.ff(block.norm3(tokens)) + tokens)
