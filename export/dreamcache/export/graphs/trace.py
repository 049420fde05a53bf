"""From a graph module to an ONNX model in memory, by torch.onnx.export (dynamo), with static shapes.

Names and shapes come from the contract's tensor declarations, so graph and contract cannot disagree.
"""

from __future__ import annotations

import ast
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.tensors import ONNX_TYPES, TensorSpec
from dreamcache.runtime.errors import first_line

OPSET = 18
"""The dynamo exporter's own; nothing here needs a newer one, and more providers know it."""


def sample_input(spec: TensorSpec, seed: int = 0) -> Tensor:
    """A random tensor of a declared shape and dtype; a timestep lies in the middle of training's, ids count up."""
    dtype = cast(torch.dtype, getattr(torch, spec.dtype))
    if not dtype.is_floating_point:
        return torch.arange(math.prod(spec.shape), dtype=dtype).reshape(spec.shape)
    if spec.name == "timestep":
        return torch.full(spec.shape, 500.0, dtype=dtype)
    return torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def export_graph(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ir.Model:
    """Export with the declared names and static shapes; the weights stay in memory, shared with PyTorch.

    Raises:
        ExportError: the exporter fails, or the graph's inputs and outputs are not the declared ones.
    """
    try:
        with quiet_exporters():
            program = torch.onnx.export(
                module.eval(),
                tuple(sample_input(spec) for spec in inputs),
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise ExportError(f"{type(module).__name__} does not export: {first_line(error)}") from error
    assert program is not None
    model = program.model
    _strip(model)
    _check_tensors(type(module).__name__, "inputs", model.graph.inputs, inputs)
    _check_tensors(type(module).__name__, "outputs", model.graph.outputs, outputs)
    return model


def free_tokens(model: ir.Model, inputs: Sequence[TensorSpec]) -> None:
    """Let inputs that take several references be as long as they are; attention reads them as they come."""
    specs = {spec.name: spec for spec in inputs}
    for value in model.graph.inputs:
        spec = specs[value.name or ""]
        if spec.multiples > 1:
            site = spec.name.rpartition(".")[0]
            batch, _, width = spec.shape
            value.shape = ir.Shape([batch, f"{site}.tokens", width])


def _strip(model: ir.Model) -> None:
    """Drop what only a debugger reads: stack traces of every node, and the shapes of what lies between."""
    model.producer_version = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    ends = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    named: set[str] = set()
    for i, node in enumerate(model.graph):
        layer = _layer(node)
        node.name = f"{node.op_type}_{i}" if layer is None or layer in named else layer
        named.add(node.name)
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            # What a convolution reads keeps its shape: 8 bits unfold it.
            convolved = any(use.node.op_type == "Conv" for use in value.uses())
            if value.name not in ends and not convolved:
                value.shape = None
                value.type = None
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    _name_regions(model)


def _name_regions(model: ir.Model) -> None:
    """Give every Resize a region, the whole: ONNX Runtime's mobile check takes an empty input for an unknown shape."""
    resized = [node for node in model.graph if node.op_type == "Resize" and node.inputs[1] is None]
    if resized:
        whole = ir.tensor(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), name="region")
        region = ir.Value(
            name="region", const_value=whole, shape=ir.Shape([8]), type=ir.TensorType(whole.dtype)
        )
        model.graph.register_initializer(region)
        for node in resized:
            node.replace_input_with(1, region)


def _layer(node: ir.Node) -> str | None:
    """Module path of the layer whose weight a node applies, the same in every graph that holds the layer."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes")
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if scopes is None or weight is None or weight.const_value is None:
        return None
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return None
    path = ast.literal_eval(scopes)
    return path[-2] if len(path) > 1 and path[-2] else None


def _check_tensors(
    graph: str, what: str, received: Sequence[ir.Value], declared: Sequence[TensorSpec]
) -> None:
    have = [(value.name, tuple(value.shape or ()), value.dtype) for value in received]
    want = [(spec.name, spec.shape, ir.DataType[ONNX_TYPES[spec.dtype].upper()]) for spec in declared]
    for one, other in zip(have, want, strict=False):
        if one != other:
            raise ExportError(
                f"{graph} {what}: expected {other}, received {one}; this is a fault of the exporter"
            )
    if len(have) != len(want):
        raise ExportError(f"{graph} {what}: expected {len(want)} tensors, received {len(have)}")


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """The exporters warn about their own insides; what matters to a user is checked afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "optimum")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
