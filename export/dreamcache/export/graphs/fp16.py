"""Weights stored in 16 bits and widened when the graph is loaded: half the disk, the same arithmetic.

Providers that compute in fp16 fold the casts into their own kernels; the CPU widens once, at load. (Graphs that compute
in fp16 gain nothing on x86.)
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir

from dreamcache.export.graphs.shared_weights import INLINE_BYTES


def store_half(model: ir.Model) -> ir.Model:
    """A copy of a graph whose large fp32 weights are stored as fp16; those that would overflow stay."""
    copy = model.clone()
    graph = copy.graph
    first = next(iter(graph))
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype != ir.DataType.FLOAT or tensor.nbytes < 2 * INLINE_BYTES or not value.uses():
            continue
        wide = tensor.numpy()
        if np.abs(wide).max() > np.finfo(np.float16).max:
            continue
        # Rounded when it is written: several graphs of a large model would not fit into memory.
        half = ir.LazyTensor(
            partial(_rounded, tensor),
            dtype=ir.DataType.FLOAT16,
            shape=ir.Shape(wide.shape),
            name=f"{value.name}.half",
        )
        stored = ir.Value(
            name=half.name, const_value=half, shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT16)
        )
        graph.register_initializer(stored)
        widen = ir.Node("", "Cast", [stored], [ir.AttrInt64("to", int(ir.DataType.FLOAT))])
        graph.insert_before(first, widen)
        ir.convenience.replace_all_uses_with(value, widen.outputs[0])
        del graph.initializers[str(value.name)]
    return copy


def _rounded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.tensor(tensor.numpy().astype(np.float16))
