"""Shapes and numbers that are worked out beforehand are those that ONNX Runtime makes, by every listed operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from dreamcache.runtime.bundle.graph_files.contents import GraphFile, graph_in
from dreamcache.runtime.bundle.graph_files.nodes import OPERATORS
from dreamcache.runtime.bundle.graph_files.sizes.memory import memory_needs


def _f(*shape: int) -> NDArray[np.float32]:
    return np.linspace(0.1, 0.9, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def _i(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _u8(*shape: int) -> NDArray[np.uint8]:
    return np.ones(shape, np.uint8)


ONE, ZERO = np.float32(1), np.uint8(0)
Case = tuple[str, Sequence[Any], dict[str, Any]]

# Everything on the list of operators at least once; the first array is the graph's input, the others are stored.
CASES: list[Case] = [
    *((name, [_f(2, 3)], {}) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish")),
    *((name, [_f(2, 3)], {}) for name in ("Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu")),
    *((name, [_f(2, 3)], {}) for name in ("Round", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Sqrt", "Tanh")),
    *((name, [_f(4, 1, 3), _f(2, 1)], {}) for name in ("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub", "Sum")),
    *((name, [_f(1, 2), _f(3, 1)], {}) for name in ("Equal", "Greater", "Less")),
    *((name, [np.ones((1, 2), bool), np.ones((3, 1), bool)], {}) for name in ("And", "Or")),
    ("Not", [np.ones((1, 2), bool)], {}),
    ("Mod", [_f(2, 3), _f(3)], {"fmod": 1}),
    ("Where", [np.ones((3, 1), bool), _f(2), _f(1, 1, 1)], {}),
    ("Cast", [_f(2, 3)], {"to": 7}),
    ("Clip", [_f(2, 3), np.float32(0), ONE], {}),
    ("PRelu", [_f(2, 3, 4), _f(3, 1)], {}),
    ("Gelu", [_f(2, 3)], {"opset": 20}),
    ("ArgMax", [_f(2, 3, 4)], {"axis": -1}),
    ("ArgMax", [_f(2, 3, 4)], {"axis": 1, "keepdims": 0}),
    ("MatMul", [_f(5, 2, 3), _f(3, 4)], {}),
    ("MatMul", [_f(3), _f(2, 3, 4)], {}),
    ("MatMul", [_f(2, 4, 3), _f(3)], {}),
    ("Gemm", [_f(3, 2), _f(4, 3), _f(4)], {"transA": 1, "transB": 1}),
    ("FusedMatMul", [_f(2, 3, 5), _f(2, 4, 5)], {"transB": 1, "domain": "com.microsoft"}),
    ("MatMulInteger", [_u8(2, 3), _u8(3, 4)], {}),
    ("QLinearMatMul", [_u8(2, 3), ONE, ZERO, _u8(3, 4), ONE, ZERO, ONE, ZERO], {}),
    ("DynamicQuantizeMatMul", [_f(2, 3), _u8(3, 4), ONE], {"domain": "com.microsoft"}),
    ("MatMulIntegerToFloat", [_u8(2, 3), _u8(3, 4), ONE, ONE], {"domain": "com.microsoft"}),
    (
        "MatMulNBits",
        [_f(2, 32), _u8(4, 1, 16), _f(4)],
        {"K": 32, "N": 4, "bits": 4, "block_size": 32, "domain": "com.microsoft"},
    ),
    ("MultiHeadAttention", [_f(2, 3, 8), _f(2, 5, 8), _f(2, 5, 4)], {"num_heads": 2, "domain": "com.microsoft"}),
    ("Conv", [_f(1, 4, 9, 8), _f(6, 2, 3, 3)], {"group": 2, "strides": [2, 1], "pads": [1, 0, 0, 1]}),
    ("Conv", [_f(1, 4, 9, 8), _f(6, 4, 3, 3)], {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    ("Conv", [_f(1, 4, 9), _f(6, 4, 3)], {"auto_pad": "VALID", "strides": [2]}),
    ("QLinearConv", [_u8(1, 4, 5, 5), ONE, ZERO, _u8(6, 4, 3, 3), ONE, ZERO, ONE, ZERO], {}),
    ("ConvTranspose", [_f(1, 4, 5, 6), _f(4, 3, 3, 2)], {"group": 2, "strides": [3, 2], "pads": [1, 0, 1, 0]}),
    ("ConvTranspose", [_f(1, 4, 5), _f(4, 3, 3)], {"strides": [2], "output_padding": [1], "dilations": [2]}),
    ("ConvTranspose", [_f(1, 4, 5), _f(4, 3, 3)], {"strides": [4], "output_shape": [20]}),
    ("ConvTranspose", [_f(1, 4, 5), _f(4, 3, 3)], {"strides": [4], "auto_pad": "VALID"}),
    ("AveragePool", [_f(1, 3, 7, 6)], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [_f(1, 3, 7, 6)], {"kernel_shape": [2, 2], "strides": [2, 2], "outputs": 2}),
    ("MaxPool", [_f(1, 3, 5)], {"kernel_shape": [2], "strides": [3], "pads": [1, 1], "ceil_mode": 1}),
    ("GlobalAveragePool", [_f(1, 3, 7, 6)], {}),
    ("BatchNormalization", [_f(1, 3, 2, 2), _f(3), _f(3), _f(3), _f(3)], {}),
    ("InstanceNormalization", [_f(1, 3, 2, 2), _f(3), _f(3)], {}),
    ("LayerNormalization", [_f(1, 3, 4), _f(4), _f(4)], {}),
    ("GroupNormalization", [_f(1, 4, 3, 3), _f(4), _f(4)], {"num_groups": 2, "opset": 21}),
    ("ReduceMean", [_f(2, 3, 4)], {"axes": [1], "keepdims": 0, "opset": 17}),
    ("ReduceMax", [_f(2, 3, 4), _i(-1, 0)], {}),
    ("ReduceSum", [_f(2, 3, 4)], {}),
    ("ReduceSum", [_f(2, 3, 4)], {"noop_with_empty_axes": 1}),
    ("QuantizeLinear", [_f(2, 3), ONE, ZERO], {}),
    ("DequantizeLinear", [_u8(2, 3), ONE, ZERO], {}),
    ("DynamicQuantizeLinear", [_f(2, 3)], {"outputs": 3}),
    *((name, [_f(2, 3)], {"domain": "com.microsoft"}) for name in ("FastGelu", "QuickGelu", "Gelu")),
    ("BiasGelu", [_f(2, 3), _f(3)], {"domain": "com.microsoft"}),
    ("SkipLayerNormalization", [_f(1, 2, 3), _f(1, 2, 3), _f(3)], {"domain": "com.microsoft"}),
    ("QLinearAdd", [_u8(2, 1), ONE, ZERO, _u8(3), ONE, ZERO, ONE, ZERO], {"domain": "com.microsoft"}),
    ("QLinearMul", [_u8(2, 1), ONE, ZERO, _u8(3), ONE, ZERO, ONE, ZERO], {"domain": "com.microsoft"}),
    ("QuantizeLinear", [_f(2, 3), ONE, ZERO], {"domain": "com.microsoft"}),
    ("DequantizeLinear", [_u8(2, 3), ONE, ZERO], {"domain": "com.microsoft"}),
    ("Concat", [_f(2, 3), _f(2, 1), _f(2, 4)], {"axis": -1}),
    ("Constant", [], {"value_floats": [1.0, 2.0]}),
    ("Constant", [], {"value_int": 3}),
    ("ConstantOfShape", [_i(2, 0, 3)], {}),
    ("DepthToSpace", [_f(1, 8, 3, 3)], {"blocksize": 2}),
    ("SpaceToDepth", [_f(1, 2, 6, 4)], {"blocksize": 2}),
    ("Expand", [_f(3, 1), _i(2, 1, 4)], {}),
    ("Flatten", [_f(2, 3, 4)], {"axis": -1}),
    ("Flatten", [_f(2, 3, 4)], {"axis": 0}),
    ("Gather", [_f(2, 3, 4), np.ones((5, 1), np.int64)], {"axis": 1}),
    ("Gather", [_f(2, 3, 4), np.int64(1)], {"axis": -1}),
    ("GatherElements", [_f(2, 3), np.ones((1, 3), np.int64)], {}),
    ("GatherND", [_f(2, 3, 4), np.ones((2, 5, 1), np.int64)], {"batch_dims": 1}),
    ("GatherND", [_f(2, 3, 4), np.ones((5, 2), np.int64)], {}),
    ("ScatterND", [_f(4, 3), np.ones((2, 1), np.int64), _f(2, 3)], {}),
    ("Pad", [_f(2, 3), _i(1, 0, -1, 2)], {}),
    ("Pad", [_f(2, 3), _i(1, 2), np.float32(0), _i(-1)], {}),
    ("Pad", [_f(2, 3)], {"pads": [1, 0, 0, 2], "opset": 10}),
    ("Reshape", [_f(2, 3, 4), _i(0, -1, 2)], {}),
    ("Reshape", [_f(2, 0), _i(0, 5)], {"allowzero": 1}),
    ("Resize", [_f(1, 1, 5, 7), None, np.array([1, 1, 1.5, 0.3], np.float32)], {}),
    ("Resize", [_f(1, 1, 5, 7), None, None, _i(1, 1, 9, 3)], {}),
    ("Resize", [_f(1, 1, 5, 7), None, np.array([2.5, 2], np.float32)], {"axes": [2, 3]}),
    ("Resize", [_f(1, 1, 5, 7), np.array([1, 1, 2, 3], np.float32)], {"opset": 10}),
    ("Shape", [_f(2, 3, 4)], {"start": -2}),
    ("Slice", [_f(5, 6), _i(-1, 1), _i(-100, 100), _i(0, 1), _i(-2, 3)], {}),
    ("Slice", [_f(5, 6)], {"starts": [1], "ends": [-1], "axes": [1], "opset": 9}),
    ("Split", [_f(7, 2)], {"num_outputs": 3, "outputs": 3}),
    ("Split", [_f(2, 7), _i(1, 6)], {"axis": 1, "outputs": 2}),
    ("Split", [_f(2, 7)], {"axis": 1, "split": [3, 4], "outputs": 2, "opset": 11}),
    ("Squeeze", [_f(1, 2, 1)], {}),
    ("Squeeze", [_f(1, 2, 1), _i(-1)], {}),
    ("Squeeze", [_f(1, 2, 1)], {"axes": [0], "opset": 11}),
    ("Tile", [_f(2, 3), _i(3, 2)], {}),
    ("Transpose", [_f(2, 3, 4)], {}),
    ("Transpose", [_f(2, 3, 4)], {"perm": [1, 0, 2]}),
    ("Unsqueeze", [_f(2, 3), _i(0, -1)], {}),
]  # fmt: skip


def _model(
    operator: str, inputs: Sequence[Any], attributes: dict[str, Any], count: int
) -> tuple[ModelProto, dict[str, Any]]:
    """A graph of one node, and what its first inputs are given, so many; the others are stored."""
    given = dict(attributes)
    opset, domain, outputs = given.pop("opset", 18), given.pop("domain", ""), given.pop("outputs", 1)
    arrays = {f"x{place}": np.asarray(array) for place, array in enumerate(inputs) if array is not None}
    fed = dict(list(arrays.items())[:count])
    names = ["" if array is None else f"x{place}" for place, array in enumerate(inputs)]
    node = helper.make_node(
        operator, names, [f"y{place}" for place in range(outputs)], domain=domain, **given
    )
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in fed.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in fed],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), fed


@pytest.mark.parametrize(("operator", "inputs", "attributes"), CASES, ids=[case[0] for case in CASES])
def test_shapes_are_those_that_onnx_runtime_makes(
    operator: str, inputs: Sequence[Any], attributes: dict[str, Any]
) -> None:
    model, fed = _model(operator, inputs, attributes, 0 if operator == "ConstantOfShape" else 1)
    made = _run(model, fed)
    needs = memory_needs(_graph(model), {name: array.shape for name, array in fed.items()})
    assert [needs.shapes[f"y{place}"] for place in range(len(made))] == [array.shape for array in made]
    # the same of constants alone: what is known of their values is what ONNX Runtime computes
    model, fed = _model(operator, inputs, attributes, 0)
    known = memory_needs(_graph(model), {}).known.get("y0")
    if known is not None:
        (result, *_) = _run(model, fed)
        np.testing.assert_array_equal(known, result)
        assert known.dtype == result.dtype


def _run(model: ModelProto, fed: dict[str, Any]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results: list[NDArray[Any]] = session.run(None, fed)
    return results


def _graph(model: ModelProto) -> GraphFile:
    return graph_in(memoryview(model.SerializeToString()), "one")


def test_every_operator_of_the_list_has_been_compared() -> None:
    compared = {(attributes.get("domain", ""), operator) for operator, _, attributes in CASES}
    # GroupNorm takes channels last and is on no CPU
    assert {(domain, name) for domain, names in OPERATORS.items() for name in names} - compared == {
        ("com.microsoft", "GroupNorm")
    }
