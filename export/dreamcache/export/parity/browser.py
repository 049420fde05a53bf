"""What a browser needs for each graph, and how right the files are that it gets (docs/guides/export.md, "web")."""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import onnx_ir as ir

from dreamcache.export.graphs.portable import state_types
from dreamcache.export.parity.gates import check_psnr
from dreamcache.export.parity.golden import Stored, worst_db
from dreamcache.runtime.bundle.contract import Graphs, Precision
from dreamcache.runtime.bundle.golden import golden_cases
from dreamcache.runtime.bundle.parity import GraphNeeds, ParityReport

FOR_BROWSERS: tuple[Precision, ...] = ("web", "web8")
WITHOUT_KERNEL = ("DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QuantizeLinear")
"""Operators of our graphs that ONNX Runtime's WebGPU provider leaves to the CPU; seen with onnxruntime-webgpu 1.27."""
_MB = 1e6


def with_needs(
    parity: ParityReport, folder: Path, graphs: Graphs, golden: Stored, least_db: float | None
) -> ParityReport:
    """Run the files as they are on the golden tensors, and say what each graph takes.

    Args:
        parity: to add to.
        folder: of the unfinished bundle.
        graphs: as the contract declares them.
        golden: tensors of `check.safetensors`.
        least_db: how close to PyTorch the files must be; None only says it.

    Raises:
        ExportError: one is not.
    """
    found: dict[str, float] = {}
    for name, case in golden_cases(graphs, golden).items():
        graph = name.partition(":")[0]
        found[graph] = min(found.get(graph, 200.0), worst_db(name, case, folder / case.spec.file))
    for name, db in found.items():
        check_psnr(f"{name} as it is on the CPU", db, 0.0 if least_db is None else least_db)
    said = ", ".join(f"{name} {db:.1f} dB" for name, db in found.items())
    note = f"the files as the CPU runs them, on the golden tensors: {said}"
    needs = {name: graph_needs(folder / spec.file) for name, spec in graphs.by_name().items()}
    return parity.model_copy(update={"needs": needs, "notes": (*parity.notes, note)})


def graph_needs(file: Path) -> GraphNeeds:
    """Sizes and operators of one graph."""
    model = ir.load(file)
    state_types(model)
    weights = [_bytes(value) for value in model.graph.initializers.values()]
    made = [_bytes(value) for node in model.graph for value in node.outputs]
    left = Counter(node.op_type for node in model.graph if node.op_type in WITHOUT_KERNEL)
    return GraphNeeds(
        weights_mb=round(sum(weights) / _MB, 3),
        # To the byte: what fits a GPU's limit exactly, fits.
        largest_mb=max([*weights, *made, *map(_bytes, model.graph.inputs)]) / _MB,
        nodes=len(model.graph),
        on_cpu=dict(left),
    )


def _bytes(value: ir.Value) -> int:
    """0 where several references leave the shape open."""
    if value.shape is None or value.dtype is None or not value.shape.is_static():
        return 0
    return int(prod(value.shape.numpy()) * value.dtype.itemsize)
