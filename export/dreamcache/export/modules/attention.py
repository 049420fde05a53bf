"""How attention is written into a graph.

``mha`` emits ONNX Runtime's contrib operator ``com.microsoft.MultiHeadAttention``, which the CPU provider
runs faster and in far less memory than separate products and softmax; the optimiser does not find it in
graphs of the dynamo exporter, so it is emitted here. ``plain`` is standard operators alone, for providers
without the contrib operator and for running the graph modules in PyTorch. ``split_einsum`` takes tokens with their
channels first and one head at a time, as Apple's Neural Engine wants them (`layouts.ChannelsFirst`).
"""

from __future__ import annotations

from typing import Literal

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from dreamcache.export.errors import ExportError

AttentionKind = Literal["mha", "plain", "split_einsum"]


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, kind: AttentionKind) -> Tensor:
    """Multi-head attention of projected tokens.

    Args:
        query: [b, n, d]; for ``split_einsum`` all tokens are [b, d, 1, n].
        key: [b or 1, m, d]; one reference may serve the whole batch.
        value: as `key`.
        heads: divides d.
        kind: see the module's text.

    Returns:
        [b, n, d], before the output projection.
    """
    if kind == "split_einsum":
        return _split_einsum(query, key, value, heads)
    b, n, d = query.shape
    if key.shape[0] != b:
        # Every query row is a softmax of its own, so a shared reference needs no copies: the batch becomes
        # one long sequence.
        query = query.reshape(1, b * n, d)
    attended = _multi_head(query, key, value, heads) if kind == "mha" else _plain(query, key, value, heads)
    return attended.reshape(b, n, d) if key.shape[0] != b else attended


def _multi_head(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    return torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (query, key, value),
        # The operator's own default, written down for what takes its place (`graphs.portable`).
        {"num_heads": heads, "scale": 1.0 / (query.shape[2] // heads) ** 0.5},
        dtype=query.dtype,
        shape=query.shape,
        version=1,
    )


def _plain(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    b, n, d = query.shape
    e = d // heads
    q = query.reshape(b, n, heads, e).transpose(1, 2)
    k = key.reshape(b, key.shape[1], heads, e).permute(0, 2, 3, 1)
    v = value.reshape(b, value.shape[1], heads, e).transpose(1, 2)
    weights = torch.softmax(torch.matmul(q * (1.0 / e**0.5), k), dim=-1)
    return torch.matmul(weights, v).transpose(1, 2).reshape(b, n, d)


def _split_einsum(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Head by head on [b, d, 1, n], weights [b, m, 1, n] (apple/ml-stable-diffusion, `attention.split_einsum`)."""
    b, d = query.shape[:2]
    e = d // heads
    keys = torch.split(key.transpose(1, 3).expand(b, -1, -1, -1), e, dim=3)
    values = torch.split(value.expand(b, -1, -1, -1), e, dim=1)
    queries = torch.split(query * (1.0 / e**0.5), e, dim=1)
    attended = []
    for q, k, v in zip(queries, keys, values, strict=True):
        weights = torch.softmax(torch.einsum("bchq,bkhc->bkhq", q, k), dim=1)
        attended.append(torch.einsum("bkhq,bchk->bchq", weights, v))
    return torch.cat(attended, dim=1)


def check_attention(name: str, attention: Attention) -> None:
    """Refuse an attention module that `attend` and the plain projections do not reproduce.

    Raises:
        ExportError: it has norms, masks of its own, a residual or a rescaled output.
    """
    extras = [
        extra
        for extra in ("norm_q", "norm_k", "group_norm", "spatial_norm", "norm_cross", "residual_connection")
        if getattr(attention, extra, None)
    ]
    if extras or attention.rescale_output_factor != 1.0:
        raise ExportError(
            f"{name} has {', '.join(extras) or 'a rescaled output'}, which the exporter does not write; "
            "export a UNet of Stable Diffusion's attention"
        )
