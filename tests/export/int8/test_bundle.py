"""`--precision int8` end to end on the tiny base, and a gate that refuses too few bits."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx_layers import Array, operators
from tiny_models import randomise_adapters

from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.session import open_session
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.int8 import text_and_vae as components
from dreamcache.export.int8.layers import Layer, find_layers, weight_of
from dreamcache.export.int8.rewrite import quantise
from dreamcache.export.int8.text_and_vae import quantise_components
from dreamcache.export.int8.unet import Effort
from dreamcache.export.int8.weights import QuantisedWeight, quantise_weight
from dreamcache.export.parity.golden import worst_db
from dreamcache.export.parity.report import measure_parity
from dreamcache.export.parts import unet as unet_export
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters, save_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.contract import Contract, ParityReport
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.golden import read_golden
from dreamcache.runtime.bundle.parity import (
    CONDITION_TOLERANCE,
    MIN_DEVICE_PSNR_DB,
    MIN_INT8_LATENT_DB,
    psnr_db,
)
from dreamcache.runtime.checks import verify_bundle

QUICK = Effort(calibration=(1, 6), judged=(1, 6), fine=False)
"""What the miniature takes minutes for, in seconds."""


@pytest.fixture(scope="module")
def eight(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    # Two references must differ in effect by more than 8 bits lose.
    strong = randomise_adapters(ConditionedUNet(load_base(tiny_base).unet), scale=1.5)
    adapters = folder / "adapters.safetensors"
    save_adapters(adapters, strong)
    (folder / "prompts.txt").write_text("a robot\n\na red car in the snow\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet_export, "SMALL", QUICK)
        export(
            out=folder / "bundle",
            base=str(tiny_base),
            adapters=adapters,
            precision="int8",
            calibration_prompts=folder / "prompts.txt",
        )
    return folder / "bundle"


def test_it_passes_its_gates_and_says_what_was_chosen(eight: Path) -> None:
    contract = open_bundle(eight).contract
    assert contract.precision == "int8"
    parity = contract.parity
    assert parity.trajectory_db[-1] >= MIN_INT8_LATENT_DB
    assert len(parity.judged_db) == QUICK.judged[1]
    assert parity.judged_db[-1] >= MIN_INT8_LATENT_DB + 2
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in parity.condition.values())
    formats = Counter(parity.layers.values())
    assert set(formats) <= {"int8 static", "int8 dynamic", "fp32"}
    assert formats["int8 static"] + formats["int8 dynamic"] > 0
    assert not [name for name in parity.layers if name.startswith("unet.conv_in")]
    assert [check.name for check in verify_bundle(eight) if not check.passed] == []


def test_graphs_hold_what_the_report_says(eight: Path, tiny_bundle: Path) -> None:
    layers = open_bundle(eight).contract.parity.layers
    for name in ("model", "plain", "shallow", "cache"):
        found = {node.name: node.op_type for node in ir.load(eight / f"unet/{name}.onnx").graph}
        expected = {
            "int8 static": ("Conv",),
            "int8 dynamic": ("MatMulInteger",),
            "fp32": ("Conv", "MatMul", "Gemm"),
        }
        wrong = {
            layer
            for layer, kind in layers.items()
            if found.get(layer, expected[kind][0]) not in expected[kind]
        }
        assert wrong == set()
    sizes = [(folder / "unet/weights.data").stat().st_size for folder in (eight, tiny_bundle)]
    assert sizes[0] < 0.9 * sizes[1]


def test_the_portable_form_multiplies_between_quantize_and_dequantize(eight: Path) -> None:
    contract = open_bundle(eight).contract
    products = {name for name, kind in contract.parity.layers.items() if kind == "int8 dynamic"}
    assert any("products of the portable form have fixed ranges" in note for note in contract.parity.notes)
    for name in ("denoiser", "cache", "plain", "shallow"):
        spec = contract.graphs.by_name()[name]
        assert spec.portable is not None
        own, portable = (ir.load(eight / file) for file in (spec.file, spec.portable))
        found = {node.name: node for node in portable.graph if node.name in products}
        static = [node for node in found.values() if node.op_type == "MatMul"]
        assert len(static) > len(found) / 2
        for node in static:
            assert [made_by(value) for value in node.inputs] == ["DequantizeLinear"] * 2
        assert operators(own).count("MatMulInteger") > operators(portable).count("MatMulInteger")
        codes = [
            {
                value.const_value.offset
                for value in graph.graph.initializers.values()
                if isinstance(value.const_value, ir.ExternalTensor) and value.dtype == ir.DataType.INT8
            }
            for graph in (portable, own)
        ]
        assert codes[0] <= codes[1], "weights that the other form does not read"
    cases = {
        name: case for name, case in read_golden(open_bundle(eight)).items() if name in ("denoiser", "cache")
    }
    assert len(cases) == 2
    for name, case in cases.items():
        assert worst_db(name, case, eight / str(case.spec.portable)) >= MIN_DEVICE_PSNR_DB


def made_by(value: ir.Value | None) -> str:
    node = None if value is None else value.producer()
    return "" if node is None else node.op_type


def in_bits(model: ir.Model, bits: int) -> ir.Model:
    """Every layer dynamic, its weights in `bits`."""
    layers, weights = find_layers(model), {}
    coarse = 2.0 ** (8 - bits)
    for node in model.graph:
        if node.name in layers:
            exact = quantise_weight(layers[node.name], weight_of(node))
            codes = np.round(exact.codes / coarse).astype(np.int8)
            weights[node.name] = QuantisedWeight(codes, (exact.scales * coarse).astype(np.float32))
    return quantise(model, dict.fromkeys(layers, "dynamic"), weights, {})


def test_the_gate_refuses_3_bits(
    tiny_bundle: Path, tiny_base: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    contract, base = open_bundle(tiny_bundle).contract, load_base(tiny_base)
    conditioned = load_adapters(tiny_adapters, base.unet)

    def measure(bits: int, enforce: bool) -> ParityReport:
        folder = shutil.copytree(tiny_bundle, tmp_path / f"{bits}-{enforce}")
        models = {
            path.name: in_bits(ir.load(path), bits) for path in sorted((tiny_bundle / "unet").glob("*.onnx"))
        }
        shutil.rmtree(folder / "unet")
        (folder / "unet").mkdir()
        write_shared(folder / "unet", models, "weights.data")
        return measure_parity(
            folder,
            contract.graphs,
            contract.architecture,
            base,
            conditioned,
            (100, 99),
            precision="int8",
            enforce=enforce,
        )

    few, enough = measure(3, False), measure(8, False)
    assert few.trajectory_db[-1] < MIN_INT8_LATENT_DB < enough.trajectory_db[-1]
    # By which gate is not the same for every base: the effects suffer too.
    with pytest.raises(ExportError, match=r"expected"):
        measure(3, True)


def outputs(folder: Path, contract: Contract, feed: dict[str, Array]) -> dict[str, Array]:
    found = {}
    for name, value in feed.items():
        spec = contract.graphs.by_name()[name]
        session = open_session(name, folder / spec.file)
        found[name] = session.run([spec.outputs[0].name], {spec.inputs[0].name: value})[0]
    return found


def test_text_encoder_and_vae(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tiny VAE is narrower than what counts as a border in real ones.
    monkeypatch.setattr(components, "OUTER_CHANNELS", 8)
    contract = open_bundle(tiny_bundle).contract
    random = np.random.default_rng(0)
    latents = [random.standard_normal((1, 4, 8, 8)).astype(np.float32) for _ in range(3)]
    feed = {
        "text_encoder": np.arange(16, dtype=np.int64)[None] + 7,
        "vae_decoder": latents[0],
    }
    feed["vae_encoder"] = outputs(tiny_bundle, contract, feed)["vae_decoder"].clip(-1, 1)
    expected = outputs(tiny_bundle, contract, feed)

    def quantised(name: str) -> dict[str, float]:
        folder = shutil.copytree(tiny_bundle, tmp_path / name)
        quantise_components(folder, contract.graphs, latents, lambda *_: None)
        received = outputs(folder, contract, feed)
        return {graph: psnr_db(expected[graph], received[graph]) for graph in feed}

    found = quantised("right")
    assert min(found.values()) > 28, found
    for name, operator in (
        ("text_encoder", "MatMulInteger"),
        ("vae_encoder", "QuantizeLinear"),
        ("vae_decoder", "QuantizeLinear"),
    ):
        file = contract.graphs.by_name()[name].file
        assert operator in operators(ir.load(tmp_path / "right" / file))
        assert sorted(path.name for path in (tmp_path / "right" / file).parent.iterdir()) == [
            "model.onnx",
            "weights.data",
        ]
        sizes = [
            (place / file).with_name("weights.data").stat().st_size
            for place in (tmp_path / "right", tiny_bundle)
        ]
        assert sizes[0] < sizes[1]

    def in_3_bits(layer: Layer, weight: Array) -> QuantisedWeight:
        exact = quantise_weight(layer, weight)
        return QuantisedWeight(
            np.round(exact.codes / 32).astype(np.int8), (exact.scales * 32).astype(np.float32)
        )

    monkeypatch.setattr(components, "quantise_weight", in_3_bits)
    few = quantised("few")
    assert all(few[name] < found[name] - 6 for name in feed), (found, few)
