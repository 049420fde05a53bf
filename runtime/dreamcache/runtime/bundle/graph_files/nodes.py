"""Nodes of an ONNX graph: their operators, of a list, and their attributes.

Field numbers: onnx/onnx.proto. Where a message says one thing twice readers disagree about which counts, so it is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from struct import unpack

import numpy as np

from dreamcache.runtime.bundle.graph_files.tensors import StoredTensor, read_tensor
from dreamcache.runtime.bundle.graph_files.wire import (
    FIXED32,
    message_fields,
    packed_varints,
    signed,
    submessage,
    text,
)

_STANDARD = (
    "Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv "
    "ConvTranspose Cos DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor "
    "Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Greater GroupNormalization HardSigmoid HardSwish "
    "Identity InstanceNormalization LayerNormalization LeakyRelu Less Log MatMul MatMulInteger Max MaxPool Min "
    "Mish Mod Mul Neg Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Reciprocal ReduceMax ReduceMean "
    "ReduceSum Relu Reshape Resize Round ScatterND Shape Sigmoid Sign Sin Slice Softmax Softplus SpaceToDepth "
    "Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where"
)
_MICROSOFT = (
    "BiasGelu DequantizeLinear DynamicQuantizeMatMul FastGelu FusedMatMul Gelu GroupNorm MatMulIntegerToFloat "
    "MatMulNBits MultiHeadAttention QLinearAdd QLinearMul QuantizeLinear QuickGelu SkipLayerNormalization"
)
OPERATORS = {"": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
"""By domain. The exports use half of these; the rest is what segmenters and their converters use."""

_NODE = {
    1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 6: "doc_string", 7: "domain",
    9: "metadata_props",
}  # fmt: skip
_ATTRIBUTE = {
    1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 7: "floats", 8: "ints", 9: "strings", 10: "tensors",
    13: "doc_string", 20: "type",
}  # fmt: skip
# AttributeProto.AttributeType -> the field that holds the value.
_FIELD_OF_TYPE = {1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8, 8: 9, 9: 10}
_LISTS = (7, 8, 9, 10)

Value = int | float | str | list[int] | list[float] | StoredTensor | None
"""Of an attribute; None for a list of texts or tensors, which no operator of the list reads."""


@dataclass
class Node:
    """One node. tensors: constants among its attributes."""

    operator: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, Value] = field(default_factory=dict)
    tensors: list[StoredTensor] = field(default_factory=list)

    def whole(self, name: str, usual: int) -> int:
        """A whole number among the attributes. Raises: ValueError for anything else."""
        value = self.attributes.get(name, usual)
        if not isinstance(value, int):
            raise ValueError(f"{self.operator}: a whole number {name} is expected")
        return value

    def wholes(self, name: str) -> list[int] | None:
        """Whole numbers among the attributes. Raises: ValueError for anything else."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise ValueError(f"{self.operator}: whole numbers {name} are expected")
        return [int(number) for number in value]

    def word(self, name: str, usual: str) -> str:
        """A text among the attributes. Raises: ValueError for anything else."""
        value = self.attributes.get(name, usual)
        if not isinstance(value, str):
            raise ValueError(f"{self.operator}: a text {name} is expected")
        return value


def read_node(message: memoryview) -> Node:
    """One `NodeProto`. Raises: ValueError, IndexError when it is damaged or holds what no bundle uses."""
    node, seen = Node(), set()
    for number, _, value in message_fields(message, _NODE, "a node"):
        if number in (4, 7) and number in seen:
            raise ValueError("a node names its operator twice")
        seen.add(number)
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(text(value))
        elif number == 4:
            node.operator = text(value)
        elif number == 7:
            domain = text(value)
            node.domain = "" if domain == "ai.onnx" else domain
        elif number == 5:
            name, found, tensors = _attribute(submessage(value))
            if name in node.attributes:
                raise ValueError(f"a node has the attribute {name!r} twice")
            node.attributes[name] = found
            node.tensors += tensors
    return node


def _attribute(message: memoryview) -> tuple[str, Value, list[StoredTensor]]:
    """Name, value and tensors of one `AttributeProto`."""
    name, word, kind, fields = "", "", 0, list[int]()
    wholes, fractions, tensors = list[int](), list[float](), list[StoredTensor]()
    for number, wire, data in message_fields(message, _ATTRIBUTE, "an attribute"):
        if number == 1:
            name = text(data)
        elif number == 20:
            kind = data if isinstance(data, int) else 0
        elif number != 13:
            fields.append(number)
        if number in (5, 10):
            tensors.append(read_tensor(submessage(data)))
        elif number in (2, 7):
            packed = submessage(data)
            found = unpack("<f", packed) if wire == FIXED32 else np.frombuffer(packed, "<f4").tolist()
            if not all(isfinite(one) for one in found):
                raise ValueError("an attribute is NaN or infinite")
            fractions += found
        elif number in (3, 8):
            wholes += [signed(data)] if isinstance(data, int) else packed_varints(data)
        elif number == 4:
            word = str(submessage(data), "utf-8", "replace")
    expected = _FIELD_OF_TYPE.get(kind, 0)
    if set(fields) - {expected} or (len(fields) > 1 and expected not in _LISTS):
        raise ValueError(f"the attribute {name!r} has other values than its type says")
    values: dict[int, Value] = {2: (*fractions, 0.0)[0], 3: (*wholes, 0)[0], 4: word, 7: fractions, 8: wholes}
    return name, (*tensors, None)[0] if expected == 5 else values.get(expected), tensors
