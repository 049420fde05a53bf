"""Random graphs of the operators that arrange tensors and work shapes out, compared with ONNX Runtime.

A case passes when the graph is refused, or ONNX Runtime refuses it, or both make the same shapes and numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from dreamcache.runtime.bundle.graph_files.contents import graph_in
from dreamcache.runtime.bundle.graph_files.sizes.memory import memory_needs

FLOAT, WHOLE, TRUTH = "float", "whole", "truth"
_CAST = {FLOAT: 1, WHOLE: 7}


def sizes_target(_: Path) -> Callable[[random.Random], None]:
    """For the fuzzer."""
    return compare


def compare(rng: random.Random) -> None:
    """One random graph. Raises: AssertionError where the two differ."""
    import onnxruntime

    made = RandomGraph(rng)
    content = made.model().SerializeToString()
    try:
        needs = memory_needs(graph_in(memoryview(content), "random"), {"x": made.shape})
    except ValueError:
        return  # before ONNX Runtime, which some of these would end
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    given = np.linspace(0, 3, prod(made.shape), dtype=np.float32).reshape(made.shape)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        results = session.run(None, {"x": given})
    except Exception:  # it has no common base of errors
        return
    for output, result in zip(session.get_outputs(), results, strict=True):
        assert needs.shapes[output.name] == result.shape, output.name
        known = needs.known.get(output.name)
        assert known is None or np.array_equal(known, result, equal_nan=True), output.name


class RandomGraph:
    """Nodes on one input `x` of random shape; most do not fit, which both readers have to see."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.shape = tuple(rng.choice([1, 1, 2, 3, 4, 5]) for _ in range(rng.randint(0, 4)))
        self.stored: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.values = [("x", FLOAT)]
        self.values.append((self.keep(self.whole(rng.randint(0, 4), -3, 6)), WHOLE))
        for _ in range(rng.randint(1, 7)):
            self.add()

    def model(self) -> ModelProto:
        """The finished graph; everything that it makes is an output."""
        made = [name for node in self.nodes for name in node.output]
        given = helper.make_tensor_value_info("x", 1, self.shape)
        outputs = [onnx.ValueInfoProto(name=name) for name in made]
        graph = helper.make_graph(self.nodes, "random", [given], outputs, self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def keep(self, array: NDArray[Any]) -> str:
        """Store an array; its name."""
        self.stored.append(numpy_helper.from_array(np.asarray(array), f"stored{len(self.stored)}"))
        return str(self.stored[-1].name)

    def whole(self, count: int, least: int = -3, most: int = 5) -> NDArray[np.int64]:
        """Random whole numbers."""
        return np.array([self.rng.randint(least, most) for _ in range(count)], np.int64)

    def one_of(self, kind: str) -> str:
        """A late value of a kind."""
        return self.rng.choice([name for name, found in self.values if found == kind][-4:])

    def sizes(self, least: int, most: int) -> str:
        """Whole numbers, stored or worked out."""
        if self.rng.random() < 0.5:
            return self.one_of(WHOLE)
        return self.keep(self.whole(self.rng.randint(0, 4), least, most))

    def add(self) -> None:
        """One more node."""
        name, kind = self.rng.choice(self.values[-4:])
        operator = self.rng.choice(list(_WAYS))
        inputs, attributes, made = _WAYS[operator](self, name, kind)
        outputs = [
            f"{operator}{len(self.nodes)}",
            *([f"rest{len(self.nodes)}"] if operator == "Split" else []),
        ]
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))
        self.values += [(output, made) for output in outputs]


_Made = tuple[Sequence[str], dict[str, Any], str]
_Way = Callable[[RandomGraph, str, str], _Made]


def _slice(graph: RandomGraph, name: str, kind: str) -> _Made:
    count, rng = graph.rng.randint(1, 2), graph.rng
    ends = np.array([rng.choice([-100, -2, -1, 0, 1, 2, 3, 1 << 62, -(1 << 62)]) for _ in range(count)])
    axes, steps = (
        np.array(rng.sample(range(-2, 3), count)),
        [rng.choice([-2, -1, 1, 2, 3]) for _ in range(count)],
    )
    numbers = [graph.whole(count, -7, 7), ends, axes, np.array(steps)]
    return [name, *(graph.keep(array) for array in numbers[: rng.randint(2, 4)])], {}, kind


def _shape(graph: RandomGraph, name: str, _: str) -> _Made:
    parts = {part: graph.rng.randint(-4, 4) for part in ("start", "end") if graph.rng.random() < 0.4}
    return [name], parts, WHOLE


def _concat(graph: RandomGraph, name: str, kind: str) -> _Made:
    others = [graph.one_of(kind) for _ in range(graph.rng.randint(0, 2))]
    return [name, *others], {"axis": graph.rng.randint(-2, 2)}, kind


def _gather(graph: RandomGraph, name: str, kind: str) -> _Made:
    return [name, graph.sizes(-2, 2)], {"axis": graph.rng.randint(-2, 2)}, kind


def _filled(graph: RandomGraph, _: str, __: str) -> _Made:
    made = graph.rng.choice([FLOAT, WHOLE])
    value = np.array([graph.rng.randint(-1, 3)], np.float32 if made == FLOAT else np.int64)
    return [graph.sizes(0, 4)], {"value": numpy_helper.from_array(value)}, made


def _sized(least: int, most: int, **attributes: int) -> _Way:
    return lambda graph, name, kind: ([name, graph.sizes(least, most)], attributes, kind)


def _pad(graph: RandomGraph, name: str, kind: str) -> _Made:
    count = graph.rng.randint(1, 4)
    axes = ["", graph.keep(graph.whole(count, -2, 2))] * (graph.rng.random() < 0.3)
    return [name, graph.keep(graph.whole(2 * count, -2, 2)), *axes], {}, kind


def _transpose(graph: RandomGraph, name: str, kind: str) -> _Made:
    count = graph.rng.randint(0, 4)
    return [name], {"perm": graph.rng.sample(range(count), count)} if count else {}, kind


def _axes(graph: RandomGraph, name: str, kind: str) -> _Made:
    return [name, graph.keep(graph.whole(graph.rng.randint(1, 2), -2, 2))], {}, kind


def _axis(graph: RandomGraph, name: str, kind: str) -> _Made:
    return [name], {"axis": graph.rng.randint(-3, 3)}, kind


def _split(graph: RandomGraph, name: str, kind: str) -> _Made:
    axis = {"axis": graph.rng.randint(-2, 2)}
    if graph.rng.random() < 0.5:
        return [name], axis | {"num_outputs": 2}, kind
    return [name, graph.keep(graph.whole(2, 0, 4))], axis, kind


def _resize(graph: RandomGraph, name: str, kind: str) -> _Made:
    scales = np.array([graph.rng.choice([0.3, 0.5, 1, 1.5, 2, 2.7]) for _ in range(4)], np.float32)
    sizes = [graph.keep(scales)] if graph.rng.random() < 0.5 else ["", graph.sizes(1, 6)]
    return [name, "", *sizes], {}, kind


def _reduced(graph: RandomGraph, name: str, kind: str) -> _Made:
    axes = [graph.keep(graph.whole(graph.rng.randint(0, 2), -2, 2))] * (graph.rng.random() < 0.7)
    kept = {name: graph.rng.randint(0, 1) for name in ("keepdims", "noop_with_empty_axes")}
    return [name, *axes], kept, kind


def _pooled(graph: RandomGraph, name: str, kind: str) -> _Made:
    numbers = {"kernel_shape": [graph.rng.randint(1, 3)] * 2, "strides": [graph.rng.randint(1, 3)] * 2}
    return [name], {**numbers, "ceil_mode": graph.rng.randint(0, 1)}, kind


def _pair(made: str = "", **attributes: int) -> _Way:
    return lambda graph, name, kind: ([name, graph.one_of(kind)], attributes, made or kind)


def _cast(graph: RandomGraph, name: str, _: str) -> _Made:
    made = graph.rng.choice([FLOAT, WHOLE])
    return [name], {"to": _CAST[made]}, made


def _where(graph: RandomGraph, name: str, kind: str) -> _Made:
    chosen = [found for found, made in graph.values if made == TRUTH]
    return [graph.rng.choice([name, *chosen]), name, graph.one_of(kind)], {}, kind


_WAYS: dict[str, _Way] = {
    **dict.fromkeys(("Add", "Div", "MatMul", "Max", "Min", "Mul", "Sub"), _pair()),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _axes),
    **dict.fromkeys(("ReduceMax", "ReduceSum"), _reduced),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _filled,
    "Equal": _pair(TRUTH),
    "Expand": _sized(0, 4),
    "Flatten": _axis,
    "Gather": _gather,
    "MaxPool": _pooled,
    "Pad": _pad,
    "Reshape": _sized(-1, 4),
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Tile": _sized(0, 3),
    "Transpose": _transpose,
    "Where": _where,
}
