"""Graphs rewritten with layers in 8 bits.

``static``, for convolutions: QuantizeLinear and DequantizeLinear on every side, with ranges from calibration, which
ONNX Runtime fuses into QLinearConv and other providers understand. Fastest; its output is rounded too, which is what
costs most. A Relu behind it is the range's lower end. For matrix products: the same on input and weight alone, in the
portable form. ``dynamic``: DynamicQuantizeLinear and MatMulInteger, activations quantised by their own range as they
come and the sum left in full. For matrix products, and for convolutions whose patches are unfolded into rows of a
product: 1.1 to 1.5 times the time of the static one, and 5 to 8 dB more. (The operator that does this for
convolutions, ConvInteger, is slower than fp32.) Weights are symmetric, one scale for each output channel; activations
are unsigned and asymmetric, one scale a tensor.
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
from dreamcache.export.int8.writer import LayerWriter, drop_unused

Format = Literal["static", "dynamic"]

_LARGEST_BIAS = float(2**30)
"""Leaves as much of a 32-bit sum to the products."""


def quantise(
    model: ir.Model,
    chosen: Mapping[str, Format],
    weights: Mapping[str, QuantisedWeight],
    ranges: Mapping[str, Range],
    *,
    pad_first: bool = False,
) -> ir.Model:
    """A copy of a graph with the chosen layers in 8 bits.

    Args:
        model: in full precision; left as it is.
        chosen: by layer; those that the graph does not hold are passed over.
        weights: of at least the chosen layers.
        ranges: of every static layer's input, and of a convolution's output, see `input_of` and `output_of`.
        pad_first: pad what an unfolded convolution reads before it is quantised, which gives the same codes: OpenVINO
            2026.4 takes no computed value to pad with.
    """
    copy = model.clone()
    layers = find_layers(copy)
    writer = _Writer(copy, ranges, pad_first)
    for node in list(copy.graph):
        layer = layers.get(node.name or "")
        if layer is None or layer.name not in chosen:
            continue
        weight = weights[layer.name]
        if layer.kind == "embedding":
            writer.embedding(node, layer.name, weight)
        elif layer.kind == "product":
            write = writer.static_product if chosen[layer.name] == "static" else writer.product
            write(node, layer.name, weight)
        elif chosen[layer.name] == "static":
            writer.convolution(node, layer.name, weight)
        else:
            writer.unfolded(node, layer.name, weight)
    drop_unused(copy)
    return copy


class _Writer(LayerWriter):
    """Rewrites nodes of one graph; a tensor that feeds several layers is quantised once."""

    def __init__(self, model: ir.Model, ranges: Mapping[str, Range], pad_first: bool) -> None:
        super().__init__(model)
        self.ranges, self.pad_first = ranges, pad_first
        self.dynamic: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self.static: dict[ir.Value, ir.Value] = {}
        self.positive: dict[ir.Value, Range] = {}

    def product(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        activation = node.inputs[0]
        assert activation is not None
        codes, scale, zero = self._codes_of(node, activation)
        result = self._multiply(node, name, codes, scale, zero, weight.codes, weight.scales)
        self._finish_product(node, result)

    def static_product(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        """Input and weight rounded, the sum left in full."""
        activation = node.inputs[0]
        assert activation is not None
        inputs = [
            self._static(node, activation, self.ranges[input_of(name)]),
            self._weight(node, name, weight, axis=1),
        ]
        self._finish_product(node, self.add(node, "MatMul", inputs, name=name).outputs[0])

    def _finish_product(self, node: ir.Node, result: ir.Value) -> None:
        if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
            result = self.add(node, "Add", [result, node.inputs[2]]).outputs[0]
        self.replace(node, result)

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
        if any(pads) and self.pad_first:
            border = self._integers([0, 0, *pads[:2], 0, 0, *pads[2:]])
            nothing = self.constant("nothing", np.array(0, np.float32))
            activation = self.add(node, "Pad", [activation, border, nothing]).outputs[0]
        codes, scale, zero = self._codes_of(node, activation)
        codes = self._transpose(node, codes, [0, 2, 3, 1])
        if any(pads) and not self.pad_first:
            border = self._integers([0, pads[0], pads[1], 0, 0, pads[2], pads[3], 0])
            codes = self.add(node, "Pad", [codes, border, zero]).outputs[0]
        parts = []
        for row in range(rows):
            for column in range(columns):
                start = self._integers([row, column])
                end = self._integers(
                    [row + (tall - 1) * strides[0] + 1, column + (wide - 1) * strides[1] + 1]
                )
                inputs = [codes, start, end, self._integers([1, 2]), self._integers(strides)]
                parts.append(self.add(node, "Slice", inputs).outputs[0])
        patches = self.add(node, "Concat", parts, attributes=[ir.AttrInt64("axis", 3)]).outputs[0]
        shape = self._integers([b * tall * wide, rows * columns * channels])
        flat = self.add(node, "Reshape", [patches, shape]).outputs[0]
        matrix = np.ascontiguousarray(weight.codes.transpose(2, 3, 1, 0).reshape(-1, out_channels))
        result = self._multiply(node, name, flat, scale, zero, matrix, weight.scales)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            result = self.add(node, "Add", [result, node.inputs[2]]).outputs[0]
        picture = self._integers([b, tall, wide, out_channels])
        result = self.add(node, "Reshape", [result, picture]).outputs[0]
        result = self._transpose(node, result, [0, 3, 1, 2])
        self.replace(node, result)

    def _codes_of(self, node: ir.Node, activation: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Codes, scale and zero point of an activation, by its own range."""
        if activation not in self.dynamic:
            codes, scale, zero = self.add(node, "DynamicQuantizeLinear", [activation], 3).outputs
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
        inputs = [codes, self.constant(f"{name}.codes", matrix), zero]
        integers = self.add(node, "MatMulInteger", inputs, name=name)
        floats = self.add(node, "Cast", [integers.outputs[0]], attributes=[ir.AttrInt64("to", 1)])
        both = self.add(node, "Mul", [scale, self.constant(f"{name}.scales", scales)])
        return self.add(node, "Mul", [floats.outputs[0], both.outputs[0]]).outputs[0]

    def _transpose(self, node: ir.Node, value: ir.Value, order: list[int]) -> ir.Value:
        return self.add(node, "Transpose", [value], attributes=[ir.AttrInt64s("perm", order)]).outputs[0]

    def _zeros(self, count: int) -> ir.Value:
        return self.constant(f"zeros.{count}", np.zeros(count, np.int32))

    def _integers(self, values: list[int]) -> ir.Value:
        return self.constant("integers." + "_".join(map(str, values)), np.array(values, np.int64))

    def convolution(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        activation = node.inputs[0]
        assert activation is not None
        inside = self.positive.get(activation, self.ranges[input_of(name)])
        outside = self.ranges[output_of(name)]
        weight = _with_room_for_bias(weight, _constant_bias(node), inside)
        inputs = [self._static(node, activation, inside), self._weight(node, name, weight, axis=0)]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            inputs.append(self._bias(node, name, weight.scales * inside.scale))
        convolved = self.add(node, "Conv", inputs, attributes=list(node.attributes.values()), name=name)
        relu = _relu_after(node)
        if relu is None:
            self.replace(node, self._rounded(node, convolved.outputs[0], outside))
            return
        # Codes that begin at 0 are what Relu gives, in finer steps, and the next convolution takes them as they are.
        positive = Range(0.0, outside.high)
        result = self._rounded(node, convolved.outputs[0], positive)
        self.replace(relu, result)
        self.graph.remove(node, safe=True)
        self.positive[result] = positive

    def _weight(self, node: ir.Node, name: str, weight: QuantisedWeight, axis: int) -> ir.Value:
        """The weight in floats; axis: of its output channels."""
        codes = self.constant(f"{name}.codes", weight.codes)
        scales = self.constant(f"{name}.scales", weight.scales)
        # One for each layer: where ONNX Runtime turns weights unsigned, it writes a zero point anew for each.
        zeros = self.constant(f"{name}.zeros", np.zeros(len(weight.scales), np.int8))
        along = [ir.AttrInt64("axis", axis)]
        return self.add(node, "DequantizeLinear", [codes, scales, zeros], attributes=along).outputs[0]

    def _bias(self, node: ir.Node, name: str, scales: Float) -> ir.Value:
        bias = _constant_bias(node)
        assert bias is not None
        codes = np.round(bias / scales).clip(-_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int32)
        inputs = [
            self.constant(f"{name}.bias_codes", codes),
            self.constant(f"{name}.bias_scales", scales.astype(np.float32)),
            self._zeros(len(scales)),
        ]
        return self.add(node, "DequantizeLinear", inputs, attributes=[ir.AttrInt64("axis", 0)]).outputs[0]

    def _static(self, node: ir.Node, value: ir.Value, interval: Range) -> ir.Value:
        if value in self.positive:
            return value
        if value not in self.static:
            self.static[value] = self._rounded(node, value, interval)
        return self.static[value]

    def _rounded(self, node: ir.Node, value: ir.Value, interval: Range) -> ir.Value:
        scale = self.constant(f"{value.name}.{node.name}.scale", np.asarray(interval.scale))
        zero = self.constant(f"{value.name}.{node.name}.zero_point", np.asarray(interval.zero_point))
        codes = self.add(node, "QuantizeLinear", [value, scale, zero])
        return self.add(node, "DequantizeLinear", [codes.outputs[0], scale, zero]).outputs[0]


def _relu_after(node: ir.Node) -> ir.Node | None:
    """The Relu that alone reads a node's result; None where there is none."""
    (value,) = node.outputs
    readers = [reader for reader, _ in value.uses()]
    alone = len(readers) == 1 and not value.is_graph_output()
    return readers[0] if alone and readers[0].op_type == "Relu" else None


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
