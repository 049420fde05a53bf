"""What a graph of a bundle may consist of: bundles are untrusted, and ONNX Runtime takes more than is safe.

- Operators of a list (`nodes`). No control flow (a loop need not end), no functions (28 that double are 268 million
  nodes), no sequences, no random numbers.
- Tensors in the storage that `tensors` reads; no sparse ones. All of a graph together need at most twice the bytes
  of its files: a megabyte can be named ten thousand times.
- Tensors that it makes of a bounded size: `sizes`.

Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dreamcache.runtime.bundle.graph_files.nodes import OPERATORS, Node, read_node
from dreamcache.runtime.bundle.graph_files.tensors import StoredTensor, read_tensor
from dreamcache.runtime.bundle.graph_files.wire import message_fields, submessage, text
from dreamcache.runtime.errors import BundleError

MAX_NODES = 100_000
"""SDXL's denoiser has 7,000 in 8 bits."""

_MODEL = {
    1: "ir_version", 2: "producer_name", 3: "producer_version", 4: "domain", 5: "model_version", 6: "doc_string",
    7: "graph", 8: "opset_import", 14: "metadata_props",
}  # fmt: skip
_GRAPH = {
    1: "node", 2: "name", 5: "initializer", 10: "doc_string", 11: "input", 12: "output", 13: "value_info",
    14: "quantization_annotation", 16: "metadata_props",
}  # fmt: skip
_VALUE = {1: "name", 2: "type", 3: "doc_string", 4: "metadata_props"}
_TYPE = {1: "tensor_type", 6: "denotation"}
_TENSOR_TYPE = {1: "elem_type", 2: "shape"}
_SHAPE = {1: "dim"}
_DIMENSION = {1: "dim_value", 2: "dim_param", 3: "denotation"}


@dataclass(frozen=True)
class GraphFile:
    """One graph as its file says it.

    tensors: all stored ones. stored: those with a name that nodes read. inputs: shapes by name, None where the file
    leaves a side open. outputs: names.
    """

    nodes: list[Node] = field(default_factory=list)
    tensors: list[StoredTensor] = field(default_factory=list)
    stored: dict[str, StoredTensor] = field(default_factory=dict)
    inputs: dict[str, list[int | None]] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)


def read_graph(path: Path) -> GraphFile:
    """A graph of a bundle, without copying its tensors.

    Raises: BundleError when the file is not an ONNX protobuf or holds what no graph of a bundle may.
    """
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            raise BundleError(f"{path.name} is empty, an ONNX graph is expected; export the bundle again")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return graph_in(memoryview(mapped), path.name)


def stored_tensors(path: Path) -> Iterator[StoredTensor]:
    """Every stored tensor of a graph of a bundle, without copying it. Raises: BundleError as `read_graph`."""
    yield from read_graph(path).tensors


def tensors_in(model: memoryview, name: str, *, optimized: bool = False) -> Iterator[StoredTensor]:
    """Every stored tensor of an ONNX model in memory. Arguments and errors: as `graph_in`."""
    yield from graph_in(model, name, optimized=optimized).tensors


def graph_in(model: memoryview, name: str, *, optimized: bool = False) -> GraphFile:
    """The graph of an ONNX model in memory; `name` is for the error.

    optimized: ONNX Runtime wrote it, with operators of its own, which are not compared with the list.
    Raises: BundleError when it is not an ONNX protobuf or holds what no graph of a bundle may.
    """
    try:
        graphs = [value for number, _, value in message_fields(model, _MODEL, "the model") if number == 7]
        if len(graphs) != 1:
            raise ValueError(f"one graph is expected, received {len(graphs)}")
        return _read(submessage(graphs[0]), optimized)
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(
            f"{name} is not a graph that a bundle may hold ({error}); export it again"
        ) from error


def _read(message: memoryview, optimized: bool) -> GraphFile:
    graph = GraphFile()
    for number, _, value in message_fields(message, _GRAPH, "the graph"):
        if number == 5:
            tensor = read_tensor(submessage(value))
            graph.tensors.append(tensor)
            _once(graph, tensor.name)
            graph.stored[tensor.name] = tensor
        elif number == 1:
            _add(graph, read_node(submessage(value)), optimized)
        elif number == 11:
            name, shape = _value(submessage(value))
            graph.inputs[name] = shape
        elif number == 12:
            graph.outputs.append(_value(submessage(value))[0])
    return graph


def _add(graph: GraphFile, node: Node, optimized: bool) -> None:
    if not optimized and node.operator not in OPERATORS.get(node.domain, ()):
        raise ValueError(f"operator {node.domain + '.' * bool(node.domain)}{node.operator} is not allowed")
    if len(graph.nodes) == MAX_NODES:
        raise ValueError(f"at most {MAX_NODES} nodes are expected")
    graph.tensors.extend(node.tensors)
    if node.operator == "Constant" and node.tensors and node.outputs:
        _once(graph, node.outputs[0])
        graph.stored[node.outputs[0]] = node.tensors[0]
    graph.nodes.append(node)


def _once(graph: GraphFile, name: str) -> None:
    if name in graph.stored:
        raise ValueError(f"the tensor {name!r} stands twice")


def _value(message: memoryview) -> tuple[str, list[int | None]]:
    """Name and shape of one `ValueInfoProto`; no shape is an empty one."""
    name, shape = "", list[int | None]()
    for number, _, value in message_fields(message, _VALUE, "a value"):
        if number == 1:
            name = text(value)
        elif number == 2:
            kinds = [
                kind for part, _, kind in message_fields(submessage(value), _TYPE, "a type") if part == 1
            ]
            parts = [part for kind in kinds for part in message_fields(submessage(kind), _TENSOR_TYPE, name)]
            sizes = [
                message_fields(submessage(size), _SHAPE, "a shape") for part, _, size in parts if part == 2
            ]
            shape = [_side(submessage(side)) for size in sizes for _, _, side in size]
    return name, shape


def _side(message: memoryview) -> int | None:
    for number, _, value in message_fields(message, _DIMENSION, "a dimension"):
        if number == 1 and isinstance(value, int):
            return value if value < 1 << 63 else None  # below 0, as some exporters write an open one
    return None
