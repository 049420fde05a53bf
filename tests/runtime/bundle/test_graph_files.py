"""What a graph of a bundle may consist of: hostile forms that ONNX Runtime would take are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.graph_files.contents import stored_tensors
from dreamcache.runtime.bundle.graph_files.tensors import is_finite, read_tensor
from dreamcache.runtime.errors import BundleError

FLOAT = TensorProto.FLOAT


def _body() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["c"], ["d"])], "body", [], [])


def _node(*args: object, **attributes: object) -> Callable[[ModelProto], None]:
    return lambda model: model.graph.node.append(helper.make_node(*args, **attributes))


def _constant(**value: object) -> Callable[[ModelProto], None]:
    return _node("Constant", [], ["k"], **value)


def _shaped(
    operator: str, inputs: list[str], **numbers: list[int] | list[float]
) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        for name, values in numbers.items():
            kind = np.int64 if isinstance(values[0], int) else np.float32
            model.graph.initializer.append(numpy_helper.from_array(np.array(values, kind), name))
        model.graph.node.append(helper.make_node(operator, inputs, ["made"]))

    return change


def _worked_out(model: ModelProto) -> None:
    """A shape multiplied together from a small number."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 14], np.int64), "n"))
    model.graph.node.append(helper.make_node("Mul", ["n", "n"], ["square"]))
    model.graph.node.append(helper.make_node("Concat", ["square", "square"], ["shape"], axis=0))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["made"]))


def _taken_often(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 14], np.int64), "n"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int64), "often"))
    model.graph.node.append(helper.make_node("Gather", ["n", "often"], ["shape"]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["made"]))


def _as_large_as(multiplied: bool) -> Callable[[ModelProto], None]:
    """A Resize to rows and columns of a tensor, as exporters write it, or to their squares."""

    def change(model: ModelProto) -> None:
        for n in (0, 2, 3, 4):
            model.graph.initializer.append(numpy_helper.from_array(np.array([n], np.int64), f"n{n}"))
        for inputs, output in ((["n0", "n2"], "batch"), (["n2", "n3"], "rows"), (["n3", "n4"], "columns")):
            model.graph.node.append(helper.make_node("Slice", ["all", *inputs], [output]))
        model.graph.node.append(helper.make_node("Mul", ["rows", "rows"], ["square"]))
        sides = ["square", "columns"] if multiplied else ["rows", "columns"]
        model.graph.node.append(helper.make_node("Concat", ["batch", *sides], ["sizes"], axis=0))
        model.graph.node.append(helper.make_node("Shape", ["latent"], ["all"]))
        model.graph.node.append(helper.make_node("Resize", ["latent", "", "", "sizes"], ["made"]))

    return change


def _functions(model: ModelProto) -> None:
    model.functions.append(
        helper.make_function(
            "own", "F", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], model.opset_import
        )
    )


def _sparse(model: ModelProto) -> None:
    values = helper.make_tensor("values", FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 40]))


def _half_as_integers(model: ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT16, [1], [float("nan")]))


def _one_place_many_times(model: ModelProto) -> None:
    for index in range(40):
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(model.graph.initializer[0])
        tensor.name = f"again{index}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_node("Loop", ["", ""], ["y"], body=_body()), "an attribute holds field 6"),
        (_node("If", ["c"], ["y"], then_branch=_body(), else_branch=_body()), "an attribute holds field 6"),
        (_node("Scan", ["c"], ["y"], num_scan_inputs=1), "operator Scan is not allowed"),
        (_node("RandomNormal", [], ["y"], shape=[1 << 20, 1 << 20]), "operator RandomNormal is not allowed"),
        (_node("Range", ["a", "b", "c"], ["y"]), "operator Range is not allowed"),
        (_node("SequenceEmpty", [], ["y"]), "operator SequenceEmpty is not allowed"),
        (_node("Identity", ["x"], ["y"], domain="elsewhere"), r"operator elsewhere\.Identity is not allowed"),
        (_node("F", ["x"], ["y"], domain="own", overload="o"), "a node holds field 8"),
        (_functions, "the model holds field 25"),
        (_sparse, "the graph holds field 15"),
        (lambda model: model.training_info.add(), "the model holds field 20"),
        (_constant(value_float=float("nan")), "an attribute is NaN or infinite"),
        (_constant(value_floats=[1.0, float("inf")]), "an attribute is NaN or infinite"),
        (_constant(value=helper.make_tensor("s", TensorProto.STRING, [1], [b"x"])), "a tensor holds field 6"),
        (
            _constant(value=TensorProto(name="c", data_type=14, dims=[1])),
            "data type 14, which no bundle uses",
        ),
        (_half_as_integers, "of type 10 is stored as int32_data"),
        (_one_place_many_times, r"its tensors need \d+ bytes and its files hold"),
        (
            _constant(value=TensorProto(name="c", data_type=1, dims=[3], raw_data=b"\0" * 8)),
            "needs 12 bytes, received 8",
        ),
        (_shaped("ConstantOfShape", ["n"], n=[1 << 20, 5000]), "ConstantOfShape asks for more than"),
        (_shaped("Expand", ["x", "n"], n=[1 << 29]), "Expand asks for more than"),
        (_shaped("Tile", ["x", "n"], n=[1 << 29]), "Tile asks for more than"),
        (_shaped("Pad", ["x", "n"], n=[0, 1 << 30]), "Pad asks for more than"),
        (_shaped("Resize", ["x", "", "n"], n=[1.0, 1e6]), "Resize: scales up to"),
        (_shaped("Resize", ["x", "", "", "n"], n=[1, 1, 1 << 15, 1 << 15]), "Resize asks for more than"),
        (_as_large_as(multiplied=True), "Resize asks for more than"),
        (_shaped("Expand", ["x", "unknown"]), "Expand asks for more than"),
        (_worked_out, "ConstantOfShape asks for more than"),
        (_taken_often, "ConstantOfShape asks for more than"),
    ],
)
def test_what_no_bundle_holds_is_refused_by_name(
    bundle: Path, tiny: ModuleType, change: Callable[[ModelProto], None], message: str
) -> None:
    path = bundle / "unet/model.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    tiny.seal(bundle)
    with pytest.raises(BundleError, match=message) as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        _shaped("ConstantOfShape", ["n"], n=[1, 512, 512]),
        _shaped("Resize", ["x", "", "n"], n=[1.0, 1.0, 2.0, 2.0]),
        _as_large_as(multiplied=False),
        _shaped("Pad", ["x", "n"], n=[0, 0, 0, 0, 0, 0, 1, 1]),
        _constant(value_float=1.5),
        _constant(value=helper.make_tensor("c", TensorProto.INT64, [2], [1, -1])),
        _constant(value=helper.make_tensor("c", FLOAT, [2], [1.0, -1.0])),
    ],
)
def test_what_exporters_write_is_taken(
    bundle: Path, tiny: ModuleType, change: Callable[[ModelProto], None]
) -> None:
    path = bundle / "unet/model.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    tiny.seal(bundle)
    open_bundle(bundle)


def test_a_second_graph_is_refused(bundle: Path, tiny: ModuleType) -> None:
    """ONNX Runtime merges both; a reader of the last one alone would miss the first."""
    path = bundle / "unet/model.onnx"
    path.write_bytes(path.read_bytes() + b"\x3a\x00")
    tiny.seal(bundle)
    with pytest.raises(BundleError, match="one graph is expected, received 2"):
        open_bundle(bundle)


def test_packed_floats_are_looked_into(tmp_path: Path) -> None:
    tensors = [
        helper.make_tensor(name, FLOAT, [2], [1.0, value]) for name, value in (("good", 2.0), ("bad", np.nan))
    ]
    graph = helper.make_graph([], "g", [], [], initializer=tensors)
    path = tmp_path / "g.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    assert {t.name: is_finite(t, tmp_path) for t in stored_tensors(path)} == {"good": True, "bad": False}


@pytest.mark.parametrize(
    "data", [b"\x25\x00\x00\xc0\x7f", b"\x4a\x04\x00\x00\x80\x3f\x4a\x04\x00\x00\xc0\x7f"]
)
def test_numbers_in_several_pieces_are_refused(data: bytes) -> None:
    """Unpacked floats, and raw data twice: a reader of the last piece would miss a NaN."""
    head = b"\x08\x01\x10\x01\x42\x01w"
    whole = read_tensor(memoryview(head + b"\x4a\x04\x00\x00\x80\x3f"))
    assert whole.floats() == [1.0]
    with pytest.raises(ValueError, match="tensor 'w' is stored in pieces"):
        read_tensor(memoryview(head + data))
