"""Graphs that give the inputs and outputs of their convolutions too, for an observer."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from dreamcache.export.int8.formats import Range, input_of, output_of
from dreamcache.export.int8.layers import find_layers


def watch(model: ir.Model, path: Path) -> dict[str, list[str]]:
    """Write to `path` a copy of a graph that gives every convolution's input and output too.

    Returns:
        By tensor, whose input or output it is (see `formats.input_of`).
    """
    copy = model.clone()
    convolutions = {name for name, layer in find_layers(copy).items() if layer.kind == "convolution"}
    watched: dict[str, list[str]] = {}
    outputs = {value.name for value in copy.graph.outputs}
    for node in copy.graph:
        if node.name is None or node.name not in convolutions:
            continue
        for value, place in ((node.inputs[0], input_of(node.name)), (node.outputs[0], output_of(node.name))):
            assert value is not None
            assert value.name is not None
            if value.name not in watched and value.name not in outputs:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                copy.graph.outputs.append(value)
            watched.setdefault(value.name, []).append(place)
    ir.save(copy, path)
    return watched


def by_layer(ranges: dict[str, Range], watched: dict[str, list[str]]) -> dict[str, Range]:
    """Ranges by tensor to ranges by the layers that they belong to."""
    return {place: ranges[tensor] for tensor, places in watched.items() for place in places}
