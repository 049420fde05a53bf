"""What can be quantised in a graph: nodes that apply a constant weight, named by the layer they came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Kind = Literal["convolution", "product", "embedding"]

KEPT = ("unet.conv_in", "unet.conv_out", "unet.time_embedding.", "unet.time_proj", "unet.add_embedding.")
"""Never quantised: the UNet's first and last convolutions and the time embedding, whose errors reach every layer."""


EMBEDDING_VALUES = 1 << 20
"""Smaller tables are not worth their scales."""


@dataclass(frozen=True)
class Layer:
    """One weight and the node that applies it.

    Attributes:
        name: module path, the node's name.
        kind: a convolution, a matrix product (a linear layer), or a table of embeddings.
        transposed: whether a product's weight is stored [out, in] (ONNX's Gemm with transB).
    """

    name: str
    kind: Kind
    transposed: bool = False


def find_layers(model: ir.Model) -> dict[str, Layer]:
    """Every quantisable layer of a graph by its name, in order; `KEPT` ones are left out."""
    found = {}
    for node in model.graph:
        layer = _layer(node)
        if layer is not None and not layer.name.startswith(KEPT):
            found[layer.name] = layer
    return found


def weight_of(node: ir.Node) -> NDArray[np.float32]:
    """The node's constant weight, as stored."""
    value = node.inputs[0 if node.op_type == "Gather" else 1]
    assert value is not None
    assert value.const_value is not None
    array: NDArray[np.float32] = value.const_value.numpy()
    return array


def group_layers(layers: Mapping[str, Layer], fine: bool) -> dict[str, list[str]]:
    """Layers that are judged together, by the name of their group.

    Args:
        layers: of a graph.
        fine: a group for each convolution and shortcut, and for the other products of each block; else for the
            convolutions of each of the UNet's blocks and the products of encoder, middle and decoder.
    """
    found: dict[str, list[str]] = {}
    for layer in layers.values():
        found.setdefault(_group(layer, fine), []).append(layer.name)
    return found


def _group(layer: Layer, fine: bool) -> str:
    if fine and (layer.kind == "convolution" or layer.name.endswith("conv_shortcut")):
        return layer.name
    path = (
        layer.name.replace("/", ".").removeprefix("unet.").removeprefix("folded.").removeprefix("adapters.")
    )
    depth = r"\w+_blocks?(\.\d+)?" + (r"\.(attentions|resnets)\.\d+" if fine else "")
    match = re.match(depth, path)
    block = match.group() if match else path.partition(".")[0]
    if not fine and layer.kind == "product":
        block = block.partition("_")[0]
    return f"{block}, {layer.kind}s"


def _layer(node: ir.Node) -> Layer | None:
    if node.op_type not in ("Conv", "MatMul", "Gemm", "Gather") or node.name is None or len(node.inputs) < 2:
        return None
    weight = node.inputs[0 if node.op_type == "Gather" else 1]
    if weight is None or weight.const_value is None or not weight.is_initializer():
        return None
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return Layer(node.name, "convolution") if rank == 4 else None
    if node.op_type == "Gather":
        table = rank == 2 and weight.const_value.size >= EMBEDDING_VALUES
        return Layer(node.name, "embedding") if table else None
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return Layer(node.name, "product", transposed) if rank == 2 else None
