"""Graphs rewritten with layers in 8 bits.

``static``, for convolutions: QuantizeLinear and DequantizeLinear on every side, with ranges from calibration, which
ONNX Runtime fuses into QLinearConv and other providers understand. Fastest; its output is rounded too, which is what
costs most. ``dynamic``: DynamicQuantizeLinear and MatMulInteger, activations quantised by their own range as they come
and the sum left in full. For matrix products, and for convolutions whose patches are unfolded into rows of a product:
1.1 to 1.5 times the time of the static one, and 5 to 8 dB more. (The operator that does this for convolutions,
ConvInteger, is slower than fp32.) Weights are symmetric, one scale for each output channel; activations are unsigned
and asymmetric, one scale a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dreamcache.export.int8.calibration import Range, input_of, output_of
from dreamcache.export.int8.layers import find_layers
from dreamcache.export.int8.weights import Float, QuantisedWeight

Format = Literal["static", "dynamic"]

_LARGEST_BIAS = float(2**30)
"""Leaves as much of a 32-bit sum to the products."""


def quantise(
    model: ir.Model,
    chosen: Mapping[str, Format],
    weights: Mapping[str, QuantisedWeight],
    ranges: Mapping[str, Range],
) -> ir.Model:
    """A copy of a graph with the chosen layers in 8 bits.

    Args:
        model: in full precision; left as it is.
        chosen: by layer; those that the graph does not hold are passed over.
        weights: of at least the chosen layers.
        ranges: of every static convolution, see `input_of` and `output_of`.
    """
    copy = model.clone()
    layers = find_layers(copy)
    writer = _Writer(copy, ranges)
    for node in list(copy.graph):
        layer = layers.get(node.name or "")
        if layer is None or layer.name not in chosen:
            continue
        weight = weights[layer.name]
        if layer.kind == "embedding":
            writer.embedding(node, layer.name, weight)
        elif layer.kind == "product":
            writer.product(node, layer.name, weight)
        elif chosen[layer.name] == "static":
            writer.convolution(node, layer.name, weight)
        else:
            writer.unfolded(node, layer.name, weight)
    _drop_unused(copy)
    return copy


class _Writer:
    """Rewrites nodes of one graph; a tensor that feeds several layers is quantised once."""

    def __init__(self, model: ir.Model, ranges: Mapping[str, Range]) -> None:
        self.graph = model.graph
        self.ranges = ranges
        self.dynamic: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.static: dict[ir.Value, ir.Value] = {}

    def product(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        activation = node.inputs[0]
        assert activation is not None
        codes, scale, zero = self._codes_of(node, activation)
        result = self._multiply(node, name, codes, scale, zero, weight.codes, weight.scales)
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            result = self._add(node, "Add", [result, node.inputs[2]]).outputs[0]
        self._replace(node, result)

    def unfolded(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        """Codes to [b, h, w, c], a row for each cell of what its kernel covers, one product, and back."""
        activation = node.inputs[0]
        assert activation is not None
        out_channels, channels, rows, columns = weight.codes.shape
        pads, strides = _pads(node), list(node.attributes.get_ints("strides", [1, 1]))
        b, _, height, width = _static_shape(node, activation)
        tall, wide = (
            (size + pads[axis] + pads[axis + 2] - extent) // strides[axis] + 1
            for axis, (size, extent) in enumerate(((height, rows), (width, columns)))
        )
        codes, scale, zero = self._codes_of(node, activation)
        codes = self._transpose(node, codes, [0, 2, 3, 1])
        if any(pads):
            border = self._integers([0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0])
            codes = self._add(node, "Pad", [codes, border, zero]).outputs[0]
        parts = []
        for row in range(rows):
            for column in range(columns):
                start = self._integers([row, column])
                end = self._integers(
                    [row + (tall - 1) * strides[0] + 1, column + (wide - 1) * strides[1] + 1]
                )
                inputs = [codes, start, end, self._integers([1, 2]), self._integers(strides)]
                parts.append(self._add(node, "Slice", inputs).outputs[0])
        patches = self._add(node, "Concat", parts, attributes=[ir.AttrInt64("axis", 3)]).outputs[0]
        shape = self._integers([b * tall * wide, rows * columns * channels])
        flat = self._add(node, "Reshape", [patches, shape]).outputs[0]
        matrix = np.ascontiguousarray(weight.codes.transpose(2, 3, 1, 0).reshape(-1, out_channels))
        result = self._multiply(node, name, flat, scale, zero, matrix, weight.scales)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            result = self._add(node, "Add", [result, node.inputs[2]]).outputs[0]
        picture = self._integers([b, tall, wide, out_channels])
        result = self._add(node, "Reshape", [result, picture]).outputs[0]
        result = self._transpose(node, result, [0, 3, 1, 2])
        self._replace(node, result)

    def _codes_of(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Codes, scale and zero point of an activation, by its own range."""
        if activation not in self.dynamic:
            codes, scale, zero = self._add(node, "DynamicQuantizeLinear", [activation], 3).outputs
            self.dynamic[activation] = (codes, scale, zero)
        return self.dynamic[activation]

    def _multiply(
        self,
        node: ir.Node,
        name: str,
        codes: ir.Value,
        scale: ir.Value,
        zero: ir.Value,
        matrix: NDArray[np.int8],
        scales: Float,
    ) -> ir.Value:
        inputs = [codes, self._constant(f"{name}.codes", matrix), zero]
        integers = self._add(node, "MatMulInteger", inputs, name=name)
        floats = self._add(node, "Cast", [integers.outputs[0]], attributes=[ir.AttrInt64("to", 1)])
        both = self._add(node, "Mul", [scale, self._constant(f"{name}.scales", scales)])
        return self._add(node, "Mul", [floats.outputs[0], both.outputs[0]]).outputs[0]

    def _transpose(self, node: ir.Node, value: ir.Value, order: list[int]) -> ir.Value:
        return self._add(node, "Transpose", [value], attributes=[ir.AttrInt64s("perm", order)]).outputs[0]

    def _zeros(self, count: int) -> ir.Value:
        return self._constant(f"zeros.{count}", np.zeros(count, np.int32))

    def _integers(self, values: list[int]) -> ir.Value:
        return self._constant("integers." + "_".join(map(str, values)), np.array(values, np.int64))

    def embedding(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        """A row is looked up in 8 bits and multiplied by its scale."""
        ids = node.inputs[1]
        assert ids is not None
        codes = self._constant(f"{name}.codes", weight.codes)
        scales = self._constant(f"{name}.scales", weight.scales[:, None])
        looked_up = self._add(node, "Gather", [codes, ids], name=name)
        floats = self._add(node, "Cast", [looked_up.outputs[0]], attributes=[ir.AttrInt64("to", 1)])
        scale = self._add(node, "Gather", [scales, ids])
        self._replace(node, self._add(node, "Mul", [floats.outputs[0], scale.outputs[0]]).outputs[0])

    def convolution(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        activation = node.inputs[0]
        assert activation is not None
        inside, outside = self.ranges[input_of(name)], self.ranges[output_of(name)]
        weight = _with_room_for_bias(weight, _constant_bias(node), inside)
        codes = self._constant(f"{name}.codes", weight.codes)
        scales = self._constant(f"{name}.scales", weight.scales)
        # One for each layer: where ONNX Runtime turns weights unsigned, it writes a zero point anew for each.
        none = self._constant(f"{name}.zeros", np.zeros(len(weight.scales), np.int8))
        axis = [ir.AttrInt64("axis", 0)]
        inputs = [
            self._static(node, activation, inside),
            self._add(node, "DequantizeLinear", [codes, scales, none], attributes=axis).outputs[0],
        ]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs.append(self._bias(node, name, weight.scales * inside.scale))
        convolved = self._add(node, "Conv", inputs, attributes=list(node.attributes.values()), name=name)
        result = self._rounded(node, convolved.outputs[0], outside)
        self._replace(node, result)

    def _bias(self, node: ir.Node, name: str, scales: Float) -> ir.Value:
        bias = _constant_bias(node)
        assert bias is not None
        codes = np.round(bias / scales).clip(-_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32)
        inputs = [
            self._constant(f"{name}.bias_codes", codes),
            self._constant(f"{name}.bias_scales", scales.astype(np.float32)),
            self._zeros(len(scales)),
        ]
        return self._add(node, "DequantizeLinear", inputs, attributes=[ir.AttrInt64("axis", 0)]).outputs[0]

    def _static(self, node: ir.Node, value: ir.Value, interval: Range) -> ir.Value:
        if value not in self.static:
            self.static[value] = self._rounded(node, value, interval)
        return self.static[value]

    def _rounded(self, node: ir.Node, value: ir.Value, interval: Range) -> ir.Value:
        scale = self._constant(f"{value.name}.{node.name}.scale", np.asarray(interval.scale))
        zero = self._constant(f"{value.name}.{node.name}.zero_point", np.asarray(interval.zero_point))
        codes = self._add(node, "QuantizeLinear", [value, scale, zero])
        return self._add(node, "DequantizeLinear", [codes.outputs[0], scale, zero]).outputs[0]

    def _add(
        self,
        before: ir.Node,
        operator: str,
        inputs: list[ir.Value],
        outputs: int = 1,
        attributes: list[ir.Attr] | None = None,
        name: str | None = None,
    ) -> ir.Node:
        node = ir.Node("", operator, inputs, attributes or [], num_outputs=outputs, name=name)
        self.graph.insert_before(before, node)
        return node

    def _constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
        )
        self.graph.register_initializer(value)
        return value

    def _replace(self, node: ir.Node, result: ir.Value) -> None:
        old = node.outputs[0]
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        old_name, old.name = old.name, None
        result.name, result.type, result.shape = old_name, old.type, old.shape


def _constant_bias(node: ir.Node) -> Float | None:
    """[out], or None without one."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    assert value.const_value is not None
    bias: Float = value.const_value.numpy()
    return bias


def _with_room_for_bias(weight: QuantisedWeight, bias: Float | None, inside: Range) -> QuantisedWeight:
    """A convolution's weight whose bias fits into 32 bits of its scale times the input's.

    A channel whose weights are nearly nothing has a scale so small that its bias would not; beside that bias its
    weights are nothing, so their scale may be wider.
    """
    if bias is None:
        return weight
    scales = np.maximum(weight.scales, np.abs(bias) / (_LARGEST_BIAS * inside.scale)).astype(np.float32)
    if np.array_equal(scales, weight.scales):
        return weight
    shrink = (weight.scales / scales)[:, None, None, None]
    return QuantisedWeight(np.round(weight.codes * shrink).astype(np.int8), scales)


def _pads(node: ir.Node) -> list[int]:
    """Top, left, bottom, right."""
    assert node.attributes.get_int("group", 1) == 1
    assert set(node.attributes.get_ints("dilations", [1, 1])) == {1}
    return list(node.attributes.get_ints("pads", [0, 0, 0, 0]))


def _static_shape(node: ir.Node, value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None, f"{node.name}: the shape of {value.name} is not known"
    return tuple(int(size) for size in value.shape.numpy())


def _drop_unused(model: ir.Model) -> None:
    initializers = model.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]
