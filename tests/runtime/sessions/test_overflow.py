"""8-bit sums: the guard against overflow stands where sums saturate, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from dreamcache.runtime.sessions.overflow import GUARD, _product_here, guard_entries, sums_saturate
from dreamcache.runtime.sessions.profiles import PROFILES, Profile, session_options

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _whole(a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int32]:
    return a.astype(np.int32) @ b.astype(np.int32)


def _in_16_bits(a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int32]:
    """As x86 before VNNI: each pair of products is added in 16 bits, which saturate."""
    products = a.astype(np.int32)[:, :, None] * b.astype(np.int32)
    pairs = products.reshape(len(a), -1, 2, b.shape[1]).sum(2)
    return pairs.clip(np.iinfo(np.int16).min, np.iinfo(np.int16).max).sum(1)


def test_a_processor_is_told_by_its_sums() -> None:
    assert sums_saturate(_in_16_bits)
    assert not sums_saturate(_whole)


def test_the_guard_follows_this_processors_own_product() -> None:
    assert guard_entries() == ((GUARD,) if sums_saturate(_product_here) else ())
    assert guard_entries() is guard_entries(), "the product runs once in a process"


def _product(weight: NDArray[np.int8], rows: int) -> onnx.ModelProto:
    """MatMulInteger of uint8 [rows, depth] with a constant int8 weight [depth, columns]."""
    depth, columns = weight.shape
    ends = (("x", TensorProto.UINT8, [rows, depth]), ("y", TensorProto.INT32, [rows, columns]))
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "product",
        *([helper.make_tensor_value_info(*end)] for end in ends),
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_graph_in_the_source_is_the_one_that_onnx_writes() -> None:
    from dreamcache.runtime.sessions.overflow import _PRODUCT

    model = onnx.load_model_from_string(_PRODUCT)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["MatMulInteger"]
    assert [len(value.type.tensor_type.shape.dim) for value in model.graph.input] == [2, 2]


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("guard", [None, (GUARD,)], ids=["as probed", "forced"])
def test_sums_are_whole_in_every_profile(profile: Profile, guard: Any) -> None:
    import onnxruntime

    model = _product(np.full((64, 8), 127, np.int8), 4).SerializeToString()
    session = onnxruntime.InferenceSession(model, session_options(profile, 1, guard=guard))
    (sums,) = session.run(None, {"x": np.full((4, 64), 255, np.uint8)})
    assert (sums == 255 * 127 * 64).all()
    assert np.iinfo(np.int16).max < 2 * 255 * 127, "a pair that 16 bits cannot hold"


_MEMORY = """
import os, sys
from dreamcache.runtime.sessions.system_memory import read_memory
from dreamcache.runtime.sessions.overflow import GUARD
from dreamcache.runtime.sessions.profiles import prepare_process, session_options
import onnxruntime
guard = (GUARD,) if sys.argv[2] == "forced" else ()
prepare_process("memory")
before = read_memory(os.getpid()).private_mb
session = onnxruntime.InferenceSession(sys.argv[1], session_options("memory", 1, repeated=True, guard=guard))
print(read_memory(os.getpid()).private_mb - before)
"""


@linux
def test_the_guard_copies_every_weight_and_its_absence_none(tmp_path: Path) -> None:
    """Twelve weights of 2 MB: mapped without the guard, copied as unsigned with it."""
    path = tmp_path / "model.onnx"
    random = np.random.default_rng(0)
    weights = [random.integers(-127, 127, (1024, 2048), np.int8) for _ in range(12)]
    nodes = [helper.make_node("MatMulInteger", ["x", f"w{i}"], [f"y{i}"]) for i in range(12)]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, 1024])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.INT32, [1, 2048]) for i in range(12)],
        [onnx.numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.data")

    def private_mb(guard: str) -> float:
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(path), guard], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    assert private_mb("none") < 12
    assert private_mb("forced") > 24
