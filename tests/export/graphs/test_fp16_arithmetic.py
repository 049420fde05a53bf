"""`--precision web`: graphs that compute in 16 bits, judged with every tensor rounded as a GPU rounds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import write_tiny_adapters

from dreamcache.export.command import export
from dreamcache.export.graphs import fp16_arithmetic
from dreamcache.export.graphs.fp16_arithmetic import HalfArithmetic, round_every_tensor
from dreamcache.export.graphs.session import open_exported
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.golden import read_golden, take_sample
from dreamcache.runtime.bundle.parity import MIN_WEB_PSNR_DB, psnr_db
from dreamcache.runtime.checks import verify_bundle


def prediction_db(bundle: Path, model: ir.Model, place: Path) -> float:
    """The denoiser's prediction on its golden tensors."""
    place.mkdir()
    write_shared(place, {"model.onnx": model}, "weights.data")
    case = read_golden(open_bundle(bundle))["denoiser"]
    made = open_exported("denoiser", place / "model.onnx", case.spec).run(case.inputs())["prediction"]
    expected = case.outputs["prediction"]
    return psnr_db(expected, take_sample(made, expected.size))


def stored(model: ir.Model, dtype: ir.DataType) -> set[str]:
    values = model.graph.initializers.values()
    return {str(value.name) for value in values if value.const_value is not None and value.dtype == dtype}


def test_a_denoiser_in_16_bits(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ir.load(tiny_bundle / "unet/model.onnx")
    model = HalfArithmetic()(exact)
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}
    kept = stored(model, ir.DataType.FLOAT)
    read = {
        str(node.name): [value.dtype for value in node.inputs if value is not None] for node in model.graph
    }
    last = max(name for name in read if name.startswith("unet.up_blocks") and name.endswith("conv1"))
    for name, dtype in (
        ("unet.conv_in", ir.DataType.FLOAT16),
        (last, ir.DataType.FLOAT),
        ("unet.conv_out", ir.DataType.FLOAT),
    ):
        assert set(read[name]) - {None} == {dtype}, name
    beginnings = ("unet.time_embedding", last.removesuffix(".conv1"), "unet.conv_out")
    assert all(name.startswith(beginnings) for name in kept if name.endswith(".conv1.weight"))
    assert {name for name in kept if name.startswith("unet.down_blocks") and "ff" in name} == set()
    assert len(stored(model, ir.DataType.FLOAT16)) > 100
    assert not stored(exact, ir.DataType.FLOAT16), "the graph that was given stays as it was"
    as_it_is = prediction_db(tiny_bundle, model, tmp_path / "half")
    rounded = ir.load(tmp_path / "half/model.onnx")
    round_every_tensor(rounded)
    every_tensor = prediction_db(tiny_bundle, rounded, tmp_path / "rounded")
    # A processor rounds nothing in between: that alone would say too much.
    assert MIN_WEB_PSNR_DB + 2 < every_tensor < as_it_is - 2 < 80
    monkeypatch.setattr(fp16_arithmetic, "_PERIODIC", ())
    monkeypatch.setattr(fp16_arithmetic, "_EMBEDDINGS", ("nothing",))
    # The time's phase in 11 bits.
    assert prediction_db(tiny_bundle, HalfArithmetic()(exact), tmp_path / "coarse") < as_it_is - 1.5


def test_graphs_share_what_was_rounded(tiny_bundle: Path, tmp_path: Path) -> None:
    half = HalfArithmetic()
    models = {name: half(ir.load(tiny_bundle / f"unet/{name}.onnx")) for name in ("model", "plain")}
    shared = write_shared(tmp_path, models, "weights.data")
    assert shared.weights_bytes == shared.first_weights_bytes
    assert 0.45 < shared.weights_bytes / (tiny_bundle / "unet/weights.data").stat().st_size < 0.55


def test_an_overflow_is_seen_though_the_processor_sees_none() -> None:
    weight = np.full((4, 4), 300.0, np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["large"]),
        helper.make_node("Mul", ["large", "small"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([1e-3]), "small")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = HalfArithmetic()(
        ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    )

    def run(one: ir.Model) -> float:
        session = onnxruntime.InferenceSession(ir.to_proto(one).SerializeToString())
        return float(session.run(None, {"x": np.full((1, 4), 100.0, np.float32)})[0][0, 0])

    assert run(model) == pytest.approx(120.0, rel=1e-2)
    round_every_tensor(model)
    assert run(model) == np.inf


def test_a_bundle_for_gpus(tiny_base: Path, tmp_path: Path) -> None:
    adapters = write_tiny_adapters(tmp_path / "adapters.safetensors", tiny_base, scale=2.0)
    out = tmp_path / "bundle"
    export(out=out, base=str(tiny_base), adapters=adapters, precision="web")
    contract = open_bundle(out).contract
    assert (contract.precision, contract.format_version) == ("web", 2)
    parity = contract.parity
    assert min(parity.psnr_db.values()) >= MIN_WEB_PSNR_DB
    assert max(parity.psnr_db.values()) < 85
    assert set(parity.needs) == set(contract.graphs.by_name())
    denoiser = parity.needs["denoiser"]
    assert denoiser.weights_mb == pytest.approx(0.82, rel=0.05)
    assert (denoiser.on_cpu, denoiser.nodes > 100) == ({}, True)
    assert 0 < denoiser.largest_mb < denoiser.weights_mb
    assert not list(out.glob("rounded*"))
    assert [check.name for check in verify_bundle(out) if not check.passed] == []
    # What browsers cannot compute at a large decoder's size.
    fused = {
        name: any(node.op_type == "MultiHeadAttention" for node in ir.load(out / spec.file).graph)
        for name, spec in contract.graphs.by_name().items()
    }
    assert (fused["denoiser"], fused["vae_decoder"]) == (True, False)
