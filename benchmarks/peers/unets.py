"""The UNets of the two other ways of personalising, for PyTorch and for export to ONNX, written as plainly as possible.

`ReferenceUnet` and `ConditionedUnet`: the second-UNet way (BootPIG, Purushwalkam et al. 2024, section 3.2). A copy of
the UNet runs over the reference at the picture's own noise level, and every self-attention of the first reads the
copy's tokens after its own. `IPAdapterUnet`: decoupled cross-attention (IP-Adapter, Ye et al. 2023, eq. 5), with four
image tokens. For UNets of one block in each transformer, as Stable Diffusion 1 and 2 have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.export.modules.attention import attend as attend_exported
from dreamcache.models.walk.transformer import as_picture, as_tokens, feed_forward
from dreamcache.models.walk.unet import TransformerVisitor, visits, walk

AttentionKind = Literal["sdpa", "mha", "plain"]
"""PyTorch's own kernel; ONNX Runtime's operator; separate products."""

IMAGE_TOKENS = 4


class ReferenceUnet(nn.Module):
    """The copy: noised reference to the tokens that each self-attention reads, and nothing after the last of them."""

    def __init__(self, unet: UNet2DConditionModel, kind: AttentionKind) -> None:
        super().__init__()
        self.unet = unet
        self.kind = kind
        self.count = len(transformers(unet))

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        """[b, z, h, w], [b], [b, n, c] to one [b, tokens, d] for each transformer block, in order of execution."""
        features: list[Tensor] = []

        def keep(_: str, normed: Tensor) -> Tensor:
            features.append(normed)
            return normed

        visit = visitor(self.kind, read=keep)
        steps = visits(self.unet, latent, timestep, text)
        asked = next(steps)
        for _ in range(self.count - 1):
            asked = steps.send(visit(*asked))
        steps.close()
        last = asked.transformer
        keep(asked.name, last.transformer_blocks[0].norm1(_enter(last, asked.hidden)))
        return tuple(features)


class ConditionedUnet(nn.Module):
    """The first UNet: keys and values of every self-attention come from its own tokens and the copy's."""

    def __init__(self, unet: UNet2DConditionModel, kind: AttentionKind) -> None:
        super().__init__()
        self.unet = unet
        self.kind = kind
        self.count = len(transformers(unet))

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor, *features: Tensor) -> Tensor:
        """[b, z, h, w], [b], [b, n, c] and what `ReferenceUnet` gave, to the prediction [b, z, h, w].

        Raises: ValueError for another number of features.
        """
        if len(features) != self.count:
            raise ValueError(f"{self.count} features are expected, received {len(features)}")
        given = iter(features)
        visit = visitor(self.kind, read=lambda _, normed: torch.cat([normed, next(given)], dim=1))
        return walk(self.unet, latent, timestep, text, visit)


class IPAdapterUnet(nn.Module):
    """Every text cross-attention attends to the image tokens too, with keys and values of their own."""

    def __init__(self, unet: UNet2DConditionModel, kind: AttentionKind) -> None:
        super().__init__()
        self.unet = unet
        self.kind = kind
        self.to_k_ip = nn.ModuleDict()
        self.to_v_ip = nn.ModuleDict()
        for name, transformer in transformers(unet).items():
            text_keys = transformer.transformer_blocks[0].attn2.to_k
            for projections in (self.to_k_ip, self.to_v_ip):
                projections[_key(name)] = nn.Linear(text_keys.in_features, text_keys.out_features, bias=False)

    def forward(self, latent: Tensor, timestep: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """[b, z, h, w], [b], [b, n, c] and image tokens [b, 4, c] to the prediction [b, z, h, w]."""

        def add(name: str, query: Tensor, heads: int) -> Tensor:
            key, value = self.to_k_ip[_key(name)](image), self.to_v_ip[_key(name)](image)
            return attend(query, key, value, heads, self.kind)

        return walk(self.unet, latent, timestep, text, visitor(self.kind, add=add))


def visitor(
    kind: AttentionKind,
    read: Callable[[str, Tensor], Tensor] | None = None,
    add: Callable[[str, Tensor, int], Tensor] | None = None,
) -> TransformerVisitor:
    """A transformer block written out.

    Args:
        kind: how attention is computed.
        read: from a block's name and its normed tokens [b, n, d] to those that self-attention reads [b, m, d].
        add: from name, query [b, n, d] and heads of the cross-attention to what joins its result [b, n, d].
    """

    def visit(name: str, transformer: Transformer2DModel, hidden: Tensor, text: Tensor) -> Tensor:
        tokens = _enter(transformer, hidden)
        for block in transformer.transformer_blocks:
            own, cross = block.attn1, block.attn2
            normed = block.norm1(tokens)
            seen = normed if read is None else read(name, normed)
            attended = attend(own.to_q(normed), own.to_k(seen), own.to_v(seen), own.heads, kind)
            tokens = own.to_out[0](attended) + tokens
            query = cross.to_q(block.norm2(tokens))
            attended = attend(query, cross.to_k(text), cross.to_v(text), cross.heads, kind)
            if add is not None:
                attended = attended + add(name, query, cross.heads)
            tokens = feed_forward(block, cross.to_out[0](attended) + tokens)
        return _leave(transformer, tokens, hidden)

    return visit


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, kind: AttentionKind) -> Tensor:
    """Multi-head attention of projected tokens: [b, n, d], [b, m, d], [b, m, d] to [b, n, d]."""
    if kind != "sdpa":
        return attend_exported(query, key, value, heads, kind)
    q, k, v = (tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2) for tensor in (query, key, value))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def transformers(unet: UNet2DConditionModel) -> dict[str, Transformer2DModel]:
    """The transformer blocks by module path."""
    return {name: module for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)}


def _enter(transformer: Transformer2DModel, hidden: Tensor) -> Tensor:
    """[b, d, h, w] to tokens; the exporter's twins project tokens where diffusers convolves."""
    normed = transformer.norm(hidden)
    if isinstance(transformer.proj_in, nn.Conv2d):
        return as_tokens(transformer.proj_in(normed))
    return cast(Tensor, transformer.proj_in(as_tokens(normed)))


def _leave(transformer: Transformer2DModel, tokens: Tensor, hidden: Tensor) -> Tensor:
    if isinstance(transformer.proj_out, nn.Conv2d):
        return cast(Tensor, transformer.proj_out(as_picture(tokens, hidden)) + hidden)
    return as_picture(transformer.proj_out(tokens), hidden) + hidden


def _key(name: str) -> str:
    """Module names hold no dots."""
    return name.replace(".", "/")
