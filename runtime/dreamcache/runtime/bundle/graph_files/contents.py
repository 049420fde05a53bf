"""What a graph of a bundle may consist of: bundles are untrusted, and ONNX Runtime takes more than is safe.

- Operators of the list below. No control flow (a loop need not end), no functions (28 that double are 268 million
  nodes), no sequences, no random numbers.
- Tensors in the storage that `tensors` reads; no sparse ones. All of a graph together need at most twice the bytes
  of its files: a megabyte can be named ten thousand times.
- Operators that make large tensors of small numbers (`ConstantOfShape`, `Expand`, `Tile`, …) take sizes that the file
  states, within `MAX_ELEMENTS`.

Field numbers: onnx/onnx.proto. A product or sum of two stored tensors can still be large; that is not looked for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from struct import unpack

import numpy as np

from dreamcache.runtime.bundle.graph_files.sizes import SHAPE_INPUTS, check_sizes
from dreamcache.runtime.bundle.graph_files.tensors import StoredTensor, read_tensor
from dreamcache.runtime.bundle.graph_files.wire import FIXED32, message_fields, submessage, text
from dreamcache.runtime.errors import BundleError

_STANDARD = (
    "Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv "
    "ConvTranspose Cos DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor "
    "Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Greater GroupNormalization HardSigmoid HardSwish "
    "Identity InstanceNormalization LayerNormalization LeakyRelu Less Log MatMul MatMulInteger Max MaxPool Min "
    "Mod Mul Neg Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Reciprocal ReduceMax ReduceMean "
    "ReduceSum Relu Reshape Resize Round ScatterND Shape Sigmoid Sign Sin Slice Softmax Softplus SpaceToDepth "
    "Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where"
)
_MICROSOFT = (
    "BiasGelu DequantizeLinear DynamicQuantizeMatMul FastGelu FusedMatMul Gelu GroupNorm MatMulIntegerToFloat "
    "MatMulNBits MultiHeadAttention QLinearAdd QLinearMul QuantizeLinear QuickGelu SkipLayerNormalization"
)
OPERATORS = {"": frozenset(_STANDARD.split()), "com.microsoft": frozenset(_MICROSOFT.split())}
"""By domain. The exports use half of these; the rest is what segmenters and their converters use."""

_MODEL = {
    1: "ir_version", 2: "producer_name", 3: "producer_version", 4: "domain", 5: "model_version", 6: "doc_string",
    7: "graph", 8: "opset_import", 14: "metadata_props",
}  # fmt: skip
_GRAPH = {
    1: "node", 2: "name", 5: "initializer", 10: "doc_string", 11: "input", 12: "output", 13: "value_info",
    14: "quantization_annotation", 16: "metadata_props",
}  # fmt: skip
_NODE = {
    1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 6: "doc_string", 7: "domain",
    9: "metadata_props",
}  # fmt: skip
_ATTRIBUTE = {
    1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 7: "floats", 8: "ints", 9: "strings", 10: "tensors",
    13: "doc_string", 20: "type",
}  # fmt: skip


@dataclass
class Node:
    """One node. tensors: constants among its attributes."""

    operator: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    tensors: list[StoredTensor] = field(default_factory=list)


def stored_tensors(path: Path) -> Iterator[StoredTensor]:
    """Every stored tensor of a graph of a bundle, without copying it.

    Raises: BundleError when the file is not an ONNX protobuf or holds what no graph of a bundle may.
    """
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            raise BundleError(f"{path.name} is empty, an ONNX graph is expected; export the bundle again")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    yield from tensors_in(memoryview(mapped), path.name)


def tensors_in(model: memoryview, name: str, *, optimized: bool = False) -> Iterator[StoredTensor]:
    """Every stored tensor of an ONNX model in memory; `name` is for the error.

    optimized: ONNX Runtime wrote it, with operators of its own, which are not compared with the list.
    Raises: BundleError when it is not an ONNX protobuf or holds what no graph of a bundle may.
    """
    try:
        graphs = [value for number, _, value in message_fields(model, _MODEL, "the model") if number == 7]
        if len(graphs) != 1:
            raise ValueError(f"one graph is expected, received {len(graphs)}")
        yield from _graph_tensors(submessage(graphs[0]), optimized)
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(
            f"{name} is not a graph that a bundle may hold ({error}); export it again"
        ) from error


def _graph_tensors(graph: memoryview, optimized: bool) -> Iterator[StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    nodes: list[Node] = []
    for number, _, value in message_fields(graph, _GRAPH, "the graph"):
        if number == 5:
            tensor = read_tensor(submessage(value))
            stored[tensor.name] = tensor
            yield tensor
        elif number == 1:
            node = _node(submessage(value))
            if not optimized and node.operator not in OPERATORS.get(node.domain, ()):
                raise ValueError(
                    f"operator {node.domain + '.' * bool(node.domain)}{node.operator} is not allowed"
                )
            yield from node.tensors
            if node.operator == "Constant" and node.tensors and node.outputs:
                stored[node.outputs[0]] = node.tensors[0]
            nodes.append(node)
    if not optimized:
        made = {output: node for node in nodes for output in node.outputs}
        for node in nodes:
            if node.operator in SHAPE_INPUTS:
                check_sizes(node.operator, node.inputs, stored, made)


def _node(message: memoryview) -> Node:
    node = Node()
    for number, _, value in message_fields(message, _NODE, "a node"):
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(text(value))
        elif number == 4:
            node.operator = text(value)
        elif number == 7:
            domain = text(value)
            node.domain = "" if domain == "ai.onnx" else domain
        elif number == 5:
            node.tensors += _attribute(submessage(value))
    return node


def _attribute(message: memoryview) -> Iterator[StoredTensor]:
    for number, kind, value in message_fields(message, _ATTRIBUTE, "an attribute"):
        if number in (5, 10):
            yield read_tensor(submessage(value))
        elif number in (2, 7):
            data = submessage(value)
            numbers = unpack("<f", data) if kind == FIXED32 else np.frombuffer(data, "<f4").tolist()
            if not all(isfinite(number) for number in numbers):
                raise ValueError("an attribute is NaN or infinite")
