"""Graphs that compute in 16 bits, for GPUs, with float32 inputs and outputs, so that the contract stays as it is.

What stays in fp32: the way from the timestep to its embedding, and every sine and cosine, since a phase needs more
than 11 bits; and the denoiser's last block of residuals and attention, whose rounding nothing averages: measured at the
last timestep, it is most of what all rounding together costs. Scales of a Resize are float32 by ONNX's definition.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from dreamcache.export.graphs.portable import state_types
from dreamcache.runtime.bundle.contract import Graphs

_EMBEDDINGS = ("time_embedding.linear_2", "add_embedding.linear_2")
_PERIODIC = ("Sin", "Cos")
_LAST_LAYER = "unet.conv_out"
_BLOCK = re.compile(r"unet\.up_blocks\.(\d+)\.resnets\.(\d+)\.conv1")
_FLOAT32_INPUTS = {"Resize": (1, 2)}
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_MAKES_HALF = ("Cast", "ConstantOfShape")


class HalfArithmetic:
    """Rewrites graphs; a weight that several of them hold is rounded once."""

    def __init__(self) -> None:
        self._halves: dict[int, tuple[ir.TensorProtocol, ir.TensorProtocol]] = {}

    def __call__(self, model: ir.Model) -> ir.Model:
        """A copy of a graph that computes in 16 bits."""
        copy = model.clone()
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(copy)
        state_types(copy)
        graph, wide = copy.graph, _in_float32(copy)
        floats = [value for value in _values(graph) if value.dtype == _FLOAT]
        own = {node: [value for value in node.outputs if value in set(floats)] for node in graph}
        for value in floats:
            if value.is_initializer():
                self._round_weight(graph, value, wide)
            elif value.producer() in wide or value.is_graph_input():
                uses = [(node, i) for node, i in value.uses() if not _reads_float32(node, i, wide)]
                _through_cast(graph, value, uses, _HALF)
        for node, outputs in own.items():
            if node not in wide:
                _write_half(node)
                for value in outputs:
                    value.type = ir.TensorType(_HALF)  # clones share their types
                    _widen_where_read(graph, value, wide)
        for value in graph.initializers.copy().values():
            if not value.uses() and not value.is_graph_output():
                del graph.initializers[str(value.name)]
        _forget_types(copy)
        return copy

    def _round_weight(self, graph: ir.Graph, value: ir.Value, wide: set[ir.Node]) -> None:
        uses = [(node, i) for node, i in value.uses() if not _reads_float32(node, i, wide)]
        if not uses:
            return
        tensor = value.const_value
        assert tensor is not None
        if id(tensor) not in self._halves:
            largest = float(np.finfo(np.float16).max)
            # A mask's lowest float32 is minus infinity in 16 bits, of which a softmax may make NaN.
            rounded = np.clip(tensor.numpy(), -largest, largest).astype(np.float16)
            self._halves[id(tensor)] = tensor, ir.tensor(rounded, name=f"{value.name}.half")
        half = self._halves[id(tensor)][1]
        stored = ir.Value(
            name=f"{value.name}.half", const_value=half, shape=value.shape, type=ir.TensorType(_HALF)
        )
        graph.register_initializer(stored)
        for node, i in uses:
            node.replace_input_with(i, stored)


@contextmanager
def rounded_graphs(folder: Path, graphs: Graphs) -> Iterator[Path]:
    """A folder with graphs of the same names that round every 16-bit tensor, as a GPU does, and compute in fp32.

    A CPU runs a 16-bit graph in 32 bits without rounding in between, and would find it better than it is.
    """
    with TemporaryDirectory(dir=folder, prefix="rounded-") as name:
        place = Path(name)
        for spec in graphs.by_name().values():
            (place / spec.file).parent.mkdir(exist_ok=True)
            for weights in spec.weights:
                if not (place / weights).exists():
                    _link(folder / weights, place / weights)
            model = ir.load(folder / spec.file)
            round_every_tensor(model)
            ir.save(model, place / spec.file)
        yield place


def round_every_tensor(model: ir.Model) -> None:
    """Let a graph in 16 bits compute in fp32 and round what each node gives."""
    state_types(model)
    graph = model.graph
    for value in list(_values(graph)):
        if value.dtype != _HALF:
            continue
        uses, node = [(reader, i) for reader, i in value.uses()], value.producer()
        if node is None or node.op_type in _MAKES_HALF:
            _through_cast(graph, value, uses, _FLOAT)
            continue
        value.type = ir.TensorType(_FLOAT)
        narrow = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(_HALF))])
        widened = ir.Node("", "Cast", narrow.outputs, [ir.AttrInt64("to", int(_FLOAT))])
        graph.insert_after(node, [narrow, widened])
        for reader, i in uses:
            reader.replace_input_with(i, widened.outputs[0])
    _forget_types(model)


def _in_float32(model: ir.Model) -> set[ir.Node]:
    """Nodes that lead to the embedding of the timestep, periodic ones, and the denoiser's last block."""
    sensitive = [
        node for node in model.graph if node.op_type in _PERIODIC or (node.name or "").endswith(_EMBEDDINGS)
    ]
    return _reached(sensitive, ir.Node.predecessors, _last_block(model))


def _last_block(model: ir.Model) -> set[ir.Node]:
    """All that follows from the first convolution of the last block; nothing where a graph ends before it."""
    named = {node.name or "": node for node in model.graph}
    blocks = {
        tuple(map(int, match.groups())): node
        for name, node in named.items()
        if (match := _BLOCK.fullmatch(name))
    }
    if not blocks or _LAST_LAYER not in named:
        return set()
    return _reached([blocks[max(blocks)]], ir.Node.successors, set())


def _reached(
    start: Iterable[ir.Node], step: Callable[[ir.Node], Iterable[ir.Node]], known: set[ir.Node]
) -> set[ir.Node]:
    """The nodes of `known` and of `start`, and all that steps lead to from the latter without passing the former."""
    found = set(known)
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += step(node)
    return found


def _reads_float32(node: ir.Node, index: int, wide: set[ir.Node]) -> bool:
    return node in wide or index in _FLOAT32_INPUTS.get(node.op_type, ())


def _write_half(node: ir.Node) -> None:
    """Of nodes that say themselves what type they make."""
    if node.op_type == "Cast" and node.attributes["to"].as_int() == int(_FLOAT):
        node.attributes["to"] = ir.AttrInt64("to", int(_HALF))
    if node.op_type == "ConstantOfShape":
        value = node.attributes["value"].as_tensor().numpy()
        if value.dtype == np.float32:
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(value.astype(np.float16)))


def _widen_where_read(graph: ir.Graph, value: ir.Value, wide: set[ir.Node]) -> None:
    """Cast a 16-bit value for the readers that stay in fp32, and for the graph's outputs."""
    uses = [(node, i) for node, i in value.uses() if _reads_float32(node, i, wide)]
    if value.is_graph_output():
        name, position = value.name, list(graph.outputs).index(value)
        value.name = f"{name}.half"
        output = _through_cast(graph, value, uses, _FLOAT, always=True)
        assert output is not None
        output.name, output.shape = name, value.shape
        graph.outputs[position] = output
    else:
        _through_cast(graph, value, uses, _FLOAT)


def _through_cast(
    graph: ir.Graph,
    value: ir.Value,
    uses: list[tuple[ir.Node, int]],
    dtype: ir.DataType,
    *,
    always: bool = False,
) -> ir.Value | None:
    """Let these readers read a value in another type; what they read."""
    if not uses and not always:
        return None
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))])
    cast.outputs[0].type = ir.TensorType(dtype)
    producer = value.producer()
    if producer is None:
        graph.insert_before(next(iter(graph)), cast)
    else:
        graph.insert_after(producer, cast)
    for node, i in uses:
        node.replace_input_with(i, cast.outputs[0])
    return cast.outputs[0]


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from list(graph.initializers.values())
    for node in list(graph):
        yield from node.outputs


def _forget_types(model: ir.Model) -> None:
    """What lies between inputs and outputs is stated by the operators; said again it is half of a small file."""
    ends = {*model.graph.inputs, *model.graph.outputs}
    for node in model.graph:
        for value in node.outputs:
            if value not in ends:
                value.type = value.shape = None


def _link(source: Path, copy: Path) -> None:
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)
