"""Weights in 8 bits, activations and arithmetic in fp32: half of fp16's disk, with kernels on CPUs and GPUs alike.

Products become `com.microsoft.MatMulNBits`, a scale for each block of a row; convolutions read their weight through
DequantizeLinear, a scale for each output channel. Nothing is calibrated, since no activation is rounded.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dreamcache.export.int8.layers import Layer, find_layers, weight_of
from dreamcache.export.int8.weights import Float, QuantisedWeight, quantise_weight
from dreamcache.export.int8.writer import LayerWriter, drop_unused

BLOCK = 128
"""Weights with one scale; a scale has 4 bytes."""
_NARROW_BLOCK = 32
_LEAST_VALUES = 4096
_BORDER_CHANNELS = 8
"""A convolution from or to so few is one from or to pixels or latents."""
_MIDDLE = 128
"""The code of 0."""


def with_weights_in_8_bits(model: ir.Model) -> ir.Model:
    """A copy of a graph; what `layers.KEPT` names, small weights, and layers of pixels and latents stay in fp32."""
    copy = model.clone()
    writer, layers = _WeightWriter(copy), find_layers(copy)
    for node in list(copy.graph):
        layer = layers.get(node.name or "")
        if layer is not None and _worth_it(layer, weight_of(node)):
            writer.layer(node, layer)
    copy.opset_imports.setdefault("com.microsoft", 1)
    drop_unused(copy)
    return copy


def blocks_of(matrix: Float) -> tuple[NDArray[np.uint8], Float]:
    """A matrix [in, out] as codes [out, blocks, weights] and scales [out, blocks]; what a block lacks is 0."""
    size = BLOCK if matrix.shape[0] >= BLOCK else _NARROW_BLOCK
    padded = np.pad(matrix, ((0, -matrix.shape[0] % size), (0, 0)))
    blocks = np.ascontiguousarray(padded.T).reshape(matrix.shape[1], -1, size)
    scales = (np.maximum(np.abs(blocks).max(axis=2), 1e-12) / 127.0).astype(np.float32)
    codes = np.clip(np.round(blocks / scales[..., None]), -127, 127) + _MIDDLE
    return codes.astype(np.uint8), scales


def _worth_it(layer: Layer, weight: Float) -> bool:
    border = layer.kind == "convolution" and min(weight.shape[:2]) <= _BORDER_CHANNELS
    return weight.size >= _LEAST_VALUES and not border


class _WeightWriter(LayerWriter):
    """Rewrites layers of one graph."""

    def layer(self, node: ir.Node, layer: Layer) -> None:
        """Replace one."""
        weight = weight_of(node)
        if layer.kind == "embedding":
            self.embedding(node, layer.name, quantise_weight(layer, weight))
        elif layer.kind == "convolution":
            self._convolution(node, layer.name, quantise_weight(layer, weight))
        else:
            self._product(node, layer.name, weight.T if layer.transposed else weight)

    def _convolution(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        given = [self.constant(f"{name}.codes", weight.codes), self.constant(f"{name}.scales", weight.scales)]
        wide = self.add(node, "DequantizeLinear", given, attributes=[ir.AttrInt64("axis", 0)])
        node.replace_input_with(1, wide.outputs[0])

    def _product(self, node: ir.Node, name: str, matrix: Float) -> None:
        activation = node.inputs[0]
        assert activation is not None
        codes, scales = blocks_of(matrix)
        sizes = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": 8, "block_size": codes.shape[2]}
        product = ir.Node(
            "com.microsoft",
            "MatMulNBits",
            [activation, self.constant(f"{name}.codes", codes), self.constant(f"{name}.scales", scales)],
            [ir.AttrInt64(key, value) for key, value in sizes.items()],
            name=name,
        )
        self.graph.insert_before(node, product)
        result = product.outputs[0]
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            result = self.add(node, "Add", [result, node.inputs[2]]).outputs[0]
        self.replace(node, result)
