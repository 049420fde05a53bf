"""What a graph of a bundle may consist of: hostile forms that ONNX Runtime would take are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

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


def _places_twice(key: str, value: str) -> Callable[[ModelProto], None]:
    """External data that lies here and there; the place that is read last stands first."""

    def change(model: ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.external_data)
        known = [(one.key, one.value) for one in tensor.external_data]
        del tensor.external_data[:]
        for name, text in [(key, value), *known]:
            entry = tensor.external_data.add()
            entry.key, entry.value = name, text

    return change


def _two_values(*kinds: str) -> Callable[[ModelProto], None]:
    """An attribute that says two things, of which a reader takes one."""

    def change(model: ModelProto) -> None:
        node = helper.make_node("Concat", ["latent", "latent"], ["y"], axis=0)
        for kind in kinds:
            if kind == "ints":
                node.attribute[0].ints.append(1)
            else:
                node.attribute.append(helper.make_attribute("axis", 1))
        model.graph.node.append(node)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_two_values("ints"), "the attribute 'axis' has other values than its type says"),
        (_places_twice("offset", "0"), "says its offset twice"),
        (_places_twice("location", "../secret"), "says its location twice"),
        (_two_values("again"), "a node has the attribute 'axis' twice"),
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
