"""What every way of writing layers in 8 bits needs: new nodes and constants in a graph, and a table of embeddings."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dreamcache.export.int8.weights import QuantisedWeight


class LayerWriter:
    """Replaces nodes of one graph by others."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph

    def embedding(self, node: ir.Node, name: str, weight: QuantisedWeight) -> None:
        """A row is looked up in 8 bits and multiplied by its scale."""
        ids = node.inputs[1]
        assert ids is not None
        codes = self.constant(f"{name}.codes", weight.codes)
        scales = self.constant(f"{name}.scales", weight.scales[:, None])
        looked_up = self.add(node, "Gather", [codes, ids], name=name)
        floats = self.add(node, "Cast", [looked_up.outputs[0]], attributes=[ir.AttrInt64("to", 1)])
        scale = self.add(node, "Gather", [scales, ids])
        self.replace(node, self.add(node, "Mul", [floats.outputs[0], scale.outputs[0]]).outputs[0])

    def add(
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

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        if name in self.graph.initializers:
            return self.graph.initializers[name]
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
        )
        self.graph.register_initializer(value)
        return value

    def replace(self, node: ir.Node, result: ir.Value) -> None:
        old = node.outputs[0]
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        old_name, old.name = old.name, None
        result.name, result.type, result.shape = old_name, old.type, old.shape


def drop_unused(model: ir.Model) -> None:
    """Drop the weights that no node reads any more."""
    initializers = model.graph.initializers
    for name in [name for name, value in initializers.items() if not value.uses()]:
        del initializers[name]
