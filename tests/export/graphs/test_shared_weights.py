"""The shared weights file: every tensor once, aligned, and never appended to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.shared_weights import PAGE_ALIGNMENT, PAGED_BYTES, SMALL_ALIGNMENT, write_shared


def adder(**weights: np.ndarray) -> ir.Model:
    """x + every weight, for x of the weights' shape."""
    shape = next(iter(weights.values())).shape
    total = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    inputs, nodes, initializers = [total], [], []
    for name, weight in weights.items():
        constant = ir.Value(name=name, const_value=ir.tensor(weight, name=name))
        initializers.append(constant)
        nodes.append(ir.node("Add", [total, constant]))
        total = nodes[-1].outputs[0]
    total.name, total.shape, total.type = "y", ir.Shape(shape), ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(inputs, [total], nodes=nodes, initializers=initializers, opset_imports={"": 18})
    return ir.Model(graph, ir_version=10)


def weight(seed: int, shape: tuple[int, ...] = (40, 50)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def offsets(path: Path) -> dict[str, tuple[int, int]]:
    return {
        name: (value.const_value.offset, value.const_value.length)
        for name, value in ir.load(path).graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }


def test_equal_tensors_are_stored_once_and_the_graphs_still_compute(tmp_path: Path) -> None:
    first, second = adder(a=weight(0), b=weight(1)), adder(other_name=weight(1), c=weight(2))
    written = write_shared(tmp_path, {"first.onnx": first, "second.onnx": second}, "weights.data")
    one, two = offsets(tmp_path / "first.onnx"), offsets(tmp_path / "second.onnx")
    assert one["b"] == two["other_name"]
    assert len({*one.values(), *two.values()}) == 3
    assert written.weights_bytes == (tmp_path / "weights.data").stat().st_size
    assert written.first_weights_bytes == sum(one["b"]) < written.weights_bytes
    x = weight(9)
    for name, total in (("first", weight(0) + weight(1)), ("second", weight(1) + weight(2))):
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        np.testing.assert_allclose(session.run(None, {"x": x})[0], x + total, atol=1e-6)


def test_tensors_are_aligned_by_size_and_tiny_ones_stay_inside(tmp_path: Path) -> None:
    large = weight(0, (PAGED_BYTES // 4,))
    small = np.zeros(PAGED_BYTES // 4, np.float32)[:70]
    write_shared(tmp_path, {"a.onnx": adder(small=small), "b.onnx": adder(large=large)}, "weights.data")
    write_shared(tmp_path, {"c.onnx": adder(tiny=weight(0, (8,)))}, "other.data")
    assert offsets(tmp_path / "a.onnx")["small"][0] % SMALL_ALIGNMENT == 0
    assert offsets(tmp_path / "b.onnx")["large"][0] == PAGE_ALIGNMENT
    assert offsets(tmp_path / "c.onnx") == {}
    assert (tmp_path / "other.data").stat().st_size == 0


def test_existing_files_are_never_appended_to(tmp_path: Path) -> None:
    (tmp_path / "weights.data").write_bytes(b"old")
    with pytest.raises(ExportError, match="fresh folder"):
        write_shared(tmp_path, {"a.onnx": adder(a=weight(0))}, "weights.data")
    assert (tmp_path / "weights.data").read_bytes() == b"old"
