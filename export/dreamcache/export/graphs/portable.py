"""The portable form of a graph: standard operators alone, and every tensor's shape stated.

Core ML, NNAPI, QNN, OpenVINO and others know no `com.microsoft.MultiHeadAttention`, nor the shapes behind it.
So each graph that has one lies beside itself in a second form, on the same weights file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
)

from dreamcache.runtime.bundle.contract import Graphs

_FUSED = "MultiHeadAttention"


def add_portable(folder: Path, graphs: Graphs) -> Graphs:
    """Write the portable form of every graph with fused attention below `folder`; the graphs that name it.

    It is made of the file of that name where there is one (8 bits have layers of their own in it), else of the graph.
    """
    found = {}
    for name, spec in graphs.by_name().items():
        portable = portable_file(spec.file)
        begun = (folder / portable).exists()
        model = ir.load(folder / (portable if begun else spec.file))
        if write_attention_out(model) or begun:
            ir.save(model, folder / portable)
            found[name] = spec.model_copy(update={"portable": portable})
    return graphs.model_copy(update=found)


def portable_file(file: str) -> str:
    """The portable form of "unet/model.onnx" is "unet/model.portable.onnx"."""
    return Path(file).with_suffix(".portable.onnx").as_posix()


def write_attention_out(model: ir.Model) -> int:
    """Replace fused attention by products and softmax, and state every shape; how many there were."""
    fused = [node for node in model.graph if node.op_type == _FUSED]
    if not fused:
        return 0
    state_types(model)
    reshaped = [value for index, node in enumerate(fused) for value in _write_out(node, f"attention_{index}")]
    RemoveUnusedOpsetsPass()(model)
    ShapeInferencePass()(model)
    for value in reshaped:
        # Not every provider takes a 0 for "as before"; with several references a length stays open.
        if value.shape is not None and value.shape.is_static():
            (node,) = [value.producer()]
            assert node is not None
            target = node.inputs[1]
            assert target is not None
            target.const_value = ir.tensor(np.array(value.shape.numpy(), np.int64), name=target.name)
    return len(fused)


def state_types(model: ir.Model) -> None:
    """Give every value its type and shape, behind fused attention too, of which ONNX knows nothing."""
    known = model.clone()
    for node in [node for node in known.graph if node.op_type == _FUSED]:
        # Queries and result have one shape.
        like = ir.Node("", "Identity", [node.inputs[0]])
        ir.convenience.replace_nodes_and_values(known.graph, node, [node], [like], node.outputs, like.outputs)
    ShapeInferencePass()(known)
    for node, inferred in zip(model.graph, known.graph, strict=True):
        for value, source in zip(node.outputs, inferred.outputs, strict=True):
            value.type, value.shape = source.type, source.shape


def without_idle_nodes(model: ir.Model) -> ir.Model:
    """The graph without nodes that nobody reads, and without a reshape to the shape that its input has already.

    Optimum leaves both: the pooled output of SD 1.x's text encoder, and a reshape of its token ids, which would be a
    provider's partition of its own, since Core ML takes no lookup in a table.
    """
    RemoveUnusedNodesPass()(model)
    IdentityEliminationPass()(model)
    ShapeInferencePass()(model)
    for node in model.graph:
        given, made = (*node.inputs[:1], None)[0], node.outputs[0]
        if (
            node.op_type == "Reshape"
            and given is not None
            and given.shape is not None
            and given.shape == made.shape
        ):
            ir.convenience.replace_all_uses_with(made, given)
    RemoveUnusedNodesPass()(model)
    return model


def load_simplified(path: Path) -> ir.Model:
    """A graph whose constants are initializers: optimum's exporter shares equal ones through Identity nodes."""
    model = ir.load(path)
    for simplify in (IdentityEliminationPass(), LiftConstantsToInitializersPass()):
        simplify(model)
    return model


def _write_out(node: ir.Node, name: str) -> list[ir.Value]:
    """As `modules.attention` writes plain attention: [b, n, d], [b, m, d] twice; the values that are reshaped."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    dtype = (node.outputs[0].dtype or ir.DataType.FLOAT).numpy()
    heads, scale = node.attributes["num_heads"].as_int(), node.attributes["scale"].as_float()
    query, key, value = node.inputs[:3]
    made: list[ir.Node] = []
    reshaped: list[ir.Value] = []

    def constant(part: str, array: NDArray[Any]) -> ir.Value:
        tensor = ir.tensor(array, name=f"{name}.{part}")
        stored = ir.Value(
            name=tensor.name,
            const_value=tensor,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
        )
        graph.register_initializer(stored)
        return stored

    def operator(part: str, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        given = ir.convenience.convert_attributes(attributes)
        made.append(ir.Node("", kind, inputs, given, name=f"{name}.{part}"))
        made[-1].outputs[0].name = f"{name}.{part}"
        return made[-1].outputs[0]

    def reshape(part: str, tensor: ir.Value | None, *shape: int) -> ir.Value:
        target = constant(f"{part}_shape", np.array(shape, np.int64))
        reshaped.append(operator(part, "Reshape", tensor, target))
        return reshaped[-1]

    def split(part: str, tensor: ir.Value | None, order: list[int]) -> ir.Value:
        by_head = reshape(f"{part}_by_head", tensor, 0, 0, heads, -1)
        return operator(part, "Transpose", by_head, perm=order)

    scaled = operator(
        "scaled", "Mul", split("query", query, [0, 2, 1, 3]), constant("scale", np.array(scale, dtype))
    )
    scores = operator("scores", "MatMul", scaled, split("key", key, [0, 2, 3, 1]))
    weights = operator("weights", "Softmax", scores, axis=-1)
    attended = operator("attended", "MatMul", weights, split("value", value, [0, 2, 1, 3]))
    together = operator("together", "Transpose", attended, perm=[0, 2, 1, 3])
    result = reshape("result", together, 0, 0, -1)
    ir.convenience.replace_nodes_and_values(graph, node, [node], made, node.outputs, [result])
    return reshaped
