"""How tokens lie in memory inside transformer blocks, and what each arrangement makes of a block's layers.

`TokensLast` is PyTorch's: [b, n, d], products with matrices. `ChannelsFirst` is [b, d, 1, n] and 1 × 1 convolutions,
which is what Apple's Neural Engine computes fast (Apple, "Deploying Transformers on the Apple Neural Engine",
principles 1 and 2). The graphs' inputs and outputs are the same in both: keys and values are [1, tokens, d].
"""

from __future__ import annotations

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.export.modules.attention import AttentionKind
from dreamcache.models.walk.transformer import as_picture, as_tokens


class TokensLast:
    """[b, n, d]."""

    channels = -1

    def tokens(self, hidden: Tensor) -> Tensor:
        """Tokens of a picture [b, d, h, w]."""
        return as_tokens(hidden)

    def picture(self, tokens: Tensor, like: Tensor) -> Tensor:
        """[b, d, h, w] with height and width of `like`."""
        return as_picture(tokens, like)

    def read(self, tokens: Tensor) -> Tensor:
        """Tokens of [b, n, d], the layout of the graphs' inputs and outputs."""
        return tokens

    def given(self, tokens: Tensor) -> Tensor:
        """Tokens as [b, n, d]."""
        return tokens

    def scale(self, strength: Tensor) -> Tensor:
        """A factor [b] for each sample."""
        return strength.reshape(-1, 1, 1)

    def linear(self, layer: nn.Linear) -> nn.Module:
        """The layer for these tokens."""
        return layer

    def norm(self, layer: nn.LayerNorm) -> nn.Module:
        """The norm for these tokens."""
        return layer


class ChannelsFirst(TokensLast):
    """[b, d, 1, n]."""

    channels = 1

    def tokens(self, hidden: Tensor) -> Tensor:
        b, d, h, w = hidden.shape
        return hidden.reshape(b, d, 1, h * w)

    def picture(self, tokens: Tensor, like: Tensor) -> Tensor:
        return tokens.reshape(like.shape[0], tokens.shape[1], like.shape[2], like.shape[3])

    def read(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).unsqueeze(2)

    def given(self, tokens: Tensor) -> Tensor:
        return tokens.squeeze(2).transpose(1, 2)

    def scale(self, strength: Tensor) -> Tensor:
        return strength.reshape(-1, 1, 1, 1)

    def linear(self, layer: nn.Linear) -> nn.Module:
        return PointwiseConvolution(layer)

    def norm(self, layer: nn.LayerNorm) -> nn.Module:
        return ChannelNorm(layer)


def layout_of(kind: AttentionKind) -> TokensLast:
    """The arrangement that a kind of attention is written for."""
    return ChannelsFirst() if kind == "split_einsum" else TokensLast()


class PointwiseConvolution(nn.Module):
    """A linear layer on [b, d, 1, n]."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
        self.bias = layer.bias

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.conv2d(tokens, self.weight, self.bias)


class ChannelNorm(nn.Module):
    """Layer normalisation over axis 1 of [b, d, 1, n]."""

    def __init__(self, layer: nn.LayerNorm) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach()[:, None, None], requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach()[:, None, None], requires_grad=False)
        self.eps = layer.eps

    def forward(self, tokens: Tensor) -> Tensor:
        centred = tokens - tokens.mean(1, keepdim=True)
        deviation = torch.sqrt(centred.square().mean(1, keepdim=True) + self.eps)
        return centred / deviation * self.weight + self.bias


class ChannelGeglu(nn.Module):
    """diffusers' `GEGLU` on [b, d, 1, n]."""

    def __init__(self, layer: GEGLU) -> None:
        super().__init__()
        self.proj = PointwiseConvolution(layer.proj)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = torch.chunk(self.proj(tokens), 2, dim=1)
        return value * functional.gelu(gate)


@torch.no_grad()
def put_channels_first(transformer: Transformer2DModel) -> None:
    """Replace every layer between a transformer's two projections; those are convolutions already, or become it."""
    if transformer.use_linear_projection:
        transformer.proj_in = PointwiseConvolution(transformer.proj_in)
        transformer.proj_out = PointwiseConvolution(transformer.proj_out)
    for block in transformer.transformer_blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, PointwiseConvolution(child))
                elif isinstance(child, nn.LayerNorm):
                    setattr(parent, name, ChannelNorm(child))
                elif isinstance(child, GEGLU):
                    setattr(parent, name, ChannelGeglu(child))
