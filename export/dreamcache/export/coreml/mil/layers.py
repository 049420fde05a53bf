"""The MIL operations that are a layer of a network: products, attention, convolutions, norms and pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dreamcache.export.coreml.mil.arguments import Arguments
from dreamcache.export.coreml.mil.operators import operator
from dreamcache.export.errors import ExportError


@operator("gelu")
def _gelu(given: Arguments) -> Tensor:
    mode = given.text("mode", "EXACT")
    if mode == "SIGMOID_APPROXIMATION":
        return given.tensor("x") * torch.sigmoid(1.702 * given.tensor("x"))
    return functional.gelu(given.tensor("x"), approximate="tanh" if mode == "TANH_APPROXIMATION" else "none")


@operator("softmax")
def _softmax(given: Arguments) -> Tensor:
    return torch.softmax(given.tensor("x"), given.number("axis", -1))


@operator("linear")
def _linear(given: Arguments) -> Tensor:
    return functional.linear(given.tensor("x"), given.tensor("weight"), given.optional("bias"))


@operator("matmul")
def _matmul(given: Arguments) -> Tensor:
    x = given.tensor("x").mT if given.flag("transpose_x") else given.tensor("x")
    y = given.tensor("y").mT if given.flag("transpose_y") else given.tensor("y")
    return torch.matmul(x, y)


@operator("einsum")
def _einsum(given: Arguments) -> Tensor:
    return torch.einsum(given.text("equation", ""), *given.tensors("values"))


@operator("scaled_dot_product_attention")
def _attention(given: Arguments) -> Tensor:
    return functional.scaled_dot_product_attention(
        given.tensor("query"),
        given.tensor("key"),
        given.tensor("value"),
        attn_mask=given.optional("attn_mask"),
    )


@operator("conv")
def _conv(given: Arguments) -> Tensor:
    x, weight = given.tensor("x"), given.tensor("weight")
    rank = x.ndim - 2
    strides = given.numbers("strides", [1] * rank)
    dilations = given.numbers("dilations", [1] * rank)
    kind = given.text("pad_type", "valid")
    if kind == "custom":
        x = functional.pad(x, _torch_padding(given.numbers("pad")))
    elif kind == "same":
        sizes = zip(x.shape[2:], weight.shape[2:], strides, dilations, strict=True)
        pads = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes]
        x = functional.pad(x, _torch_padding([side for pad in pads for side in (pad // 2, pad - pad // 2)]))
    elif kind != "valid":
        raise ExportError(f"conv with pad_type {kind!r} is not known")
    convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[rank]
    return convolve(x, weight, given.optional("bias"), strides, 0, dilations, given.number("groups", 1))


def _torch_padding(pads: Sequence[int]) -> list[int]:
    """MIL counts from the first spatial axis on, PyTorch from the last."""
    return [pads[axis + side] for axis in range(len(pads) - 2, -1, -2) for side in (0, 1)]


@operator("pad")
def _pad(given: Arguments) -> Tensor:
    """Two numbers for each of the last axes, the outermost first."""
    if given.text("mode", "constant") != "constant":
        raise ExportError(f"pad in mode {given.text('mode', '')!r} is not known")
    return functional.pad(
        given.tensor("x"), _torch_padding(given.numbers("pad")), value=given.real("constant_val", 0.0)
    )


@operator("batch_norm")
def _batch_norm(given: Arguments) -> Tensor:
    return functional.batch_norm(
        given.tensor("x"),
        given.tensor("mean"),
        given.tensor("variance"),
        given.optional("gamma"),
        given.optional("beta"),
        eps=given.real("epsilon", 1e-5),
    )


@operator("layer_norm")
def _layer_norm(given: Arguments) -> Tensor:
    x, axes = given.tensor("x"), sorted(axis % given.tensor("x").ndim for axis in given.numbers("axes"))
    if axes != list(range(x.ndim - len(axes), x.ndim)):
        raise ExportError(f"layer_norm over axes {axes} of {x.ndim} is not known; the last ones are")
    shape = list(x.shape[axes[0] :])
    return functional.layer_norm(
        x, shape, given.optional("gamma"), given.optional("beta"), given.real("epsilon", 1e-5)
    )


@operator("upsample_nearest_neighbor")
def _upsample(given: Arguments) -> Tensor:
    scales = [given.real(f"scale_factor_{side}", 1.0) for side in ("height", "width")]
    return functional.interpolate(given.tensor("x"), scale_factor=scales, mode="nearest")


@operator("avg_pool")
def _avg_pool(given: Arguments) -> Tensor:
    sizes = given.numbers("kernel_sizes")
    strides = given.numbers("strides", [1] * len(sizes))
    if given.text("pad_type", "valid") != "valid" and any(given.numbers("pad", [0])):
        raise ExportError("avg_pool with padding is not known")
    return functional.avg_pool2d(given.tensor("x"), sizes, strides)
