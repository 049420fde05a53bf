"""One-layer ONNX graphs with known weights, for tests of what rewrites graphs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from dreamcache.runtime.sessions.profiles import session_options

Array = NDArray[np.float32]


class Layers:
    """Builds a graph node by node; every node is named, as layers are.

    Args:
        shapes: of the inputs, by name.
    """

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.inputs = {name: _value(name, shape) for name, shape in shapes.items()}
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.outputs: dict[str, tuple[ir.Value, tuple[int, ...]]] = {}

    def __call__(
        self, operator: str, name: str, *inputs: ir.Value | NDArray[Any], **attributes: Any
    ) -> ir.Value:
        """Append a node; arrays become its constant weights."""
        values = [
            given if isinstance(given, ir.Value) else self._constant(f"{name}.{place}", given)
            for place, given in enumerate(inputs)
        ]
        self.nodes.append(ir.node(operator, values, attributes=attributes, name=name))
        return self.nodes[-1].outputs[0]

    def model(self, **outputs: tuple[ir.Value, tuple[int, ...]]) -> ir.Model:
        """The finished graph, with its outputs and their shapes by name."""
        for name, (value, shape) in outputs.items():
            value.name, value.shape = name, ir.Shape(shape)
            value.type = ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            list(self.inputs.values()),
            [value for value, _ in outputs.values()],
            nodes=self.nodes,
            initializers=self.constants,
            opset_imports={"": 18},
        )
        return ir.Model(graph, ir_version=10)

    def _constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        value = ir.Value(
            name=name,
            const_value=ir.tensor(array, name=name),
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        self.constants.append(value)
        return value


def run(model: ir.Model, **inputs: NDArray[Any]) -> Array:
    """The first output in ONNX Runtime."""
    content = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(
        content, session_options("speed"), providers=["CPUExecutionProvider"]
    )
    result: Array = session.run(None, inputs)[0]
    return result


def operators(model: ir.Model) -> list[str]:
    """Every node's operator, in order."""
    return [node.op_type for node in model.graph]


def _value(name: str, shape: tuple[int, ...]) -> ir.Value:
    kind = ir.DataType.INT64 if name == "ids" else ir.DataType.FLOAT
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))
