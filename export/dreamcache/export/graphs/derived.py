"""Two more graphs cut out of the finished denoiser, so that they hold its very weights, in its very formats.

`plain` is the stock UNet: what multiplies `reference_strength` is gone, and the caches with it. `shallow` starts
from the deep features of an earlier step, for step caching (DeepCache, Ma et al. 2023): everything below the
topmost level is gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.tensors import TensorSpec

_STRENGTH = "reference_strength"


def derive_plain(denoiser: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ir.Model:
    """The denoiser without its adapters.

    Args:
        denoiser: left as it is.
        inputs: declared inputs of the plain graph.
        outputs: likewise.

    Raises:
        ExportError: the denoiser does not add Δ times the strength, as `graphs.DenoiserGraph` writes it.
    """
    model = denoiser.clone()
    graph = model.graph
    strength = _value(graph.inputs, _STRENGTH)
    scaled = [node for view in _consumers(strength) for output in view.outputs for node in _consumers(output)]
    additions = [(node, node.outputs[0]) for node in scaled if node.op_type == "Mul"]
    if not additions:
        raise ExportError(
            "the denoiser multiplies nothing by the reference strength; this is a fault of the exporter"
        )
    for _, product in additions:
        (addition,) = _consumers(product)
        stock = next(value for value in addition.inputs if value is not product)
        assert stock is not None
        ir.convenience.replace_all_uses_with(addition.outputs[0], stock)
    return _cut(model, inputs, outputs)


def derive_shallow(
    denoiser: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ir.Model:
    """The denoiser from `deep` on.

    Args:
        denoiser: has the output `deep`; left as it is.
        inputs: declared inputs of the shallow graph, `deep` among them.
        outputs: likewise.
    """
    model = denoiser.clone()
    deep = _value(model.graph.outputs, "deep")
    model.graph.outputs.remove(deep)
    given = ir.Value(name="deep_given", shape=deep.shape, type=deep.type)
    ir.convenience.replace_all_uses_with(deep, given)
    deep.name = "deep_computed"
    given.name = "deep"
    model.graph.inputs.append(given)
    return _cut(model, inputs, outputs)


def _cut(model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ir.Model:
    """Leave the declared inputs and outputs and what lies between them."""
    graph = model.graph
    kept = [_value(graph.outputs, spec.name) for spec in outputs]
    graph.outputs.clear()
    graph.outputs.extend(kept)
    RemoveUnusedNodesPass()(model)
    wanted = [_value(graph.inputs, spec.name) for spec in inputs]
    left = [value.name for value in graph.inputs if value not in wanted and value.uses()]
    if left:
        raise ExportError(f"the graph still reads {left}; this is a fault of the exporter")
    graph.inputs.clear()
    graph.inputs.extend(wanted)
    return model


def _consumers(value: ir.Value) -> list[ir.Node]:
    return list(dict.fromkeys(node for node, _ in value.uses()))


def _value(values: Sequence[ir.Value], name: str) -> ir.Value:
    return next(value for value in values if value.name == name)
