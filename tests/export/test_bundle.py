"""A bundle as the command writes it: its graphs, its contract, and its pictures against PyTorch's."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from PIL import Image
from tiny_models import randomise_adapters, write_tiny_adapters

from dreamcache.export.atomic_folder import MARKER, filled_folder, partial_place
from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.modules.unet import DenoiserGraph
from dreamcache.export.parity.report import measure_parity
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.guidance import GuidanceMode
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.runtime.bundle.architecture import denoiser_inputs, denoiser_outputs
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, ParityReport, cache_tensors
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_PSNR_DB
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.prepare import prepare_reference


def operators(path: Path) -> Counter[str]:
    graph = onnx.load(path, load_external_data=False).graph
    return Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node)


def test_the_runner_opens_it_and_the_gates_are_in_the_contract(tiny_bundle: Path) -> None:
    contract = open_bundle(tiny_bundle).contract
    assert contract.weights == "trained"
    assert contract.architecture.batch == 2
    assert [site.tokens for site in contract.architecture.sites] == [16, 16, 64, 64]
    parity = contract.parity
    assert set(parity.psnr_db) == set(contract.graphs.by_name())
    assert min(parity.psnr_db.values()) >= MIN_PSNR_DB
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in parity.condition.values())
    assert min(parity.trajectory_db) >= MIN_PSNR_DB
    listed = {path.relative_to(tiny_bundle).as_posix() for path in tiny_bundle.rglob("*") if path.is_file()}
    assert listed - {CONTRACT_NAME} == set(contract.files)
    index = json.loads((tiny_bundle / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert not list(tiny_bundle.parent.glob(".*"))


def test_the_caching_graph_holds_nothing_it_does_not_need(tiny_bundle: Path) -> None:
    cache, denoiser = (operators(tiny_bundle / f"unet/{name}.onnx") for name in ("cache", "model"))
    attention = "com.microsoft::MultiHeadAttention"
    # 11 transformer blocks of two attentions; 4 tapped ones attend to the reference too.
    assert denoiser[attention] == 11 * 2 + 4
    # The last tapped site is the last block of the decoder: its own attentions are not in the caching graph.
    assert cache[attention] == 10 * 2
    assert cache["Sin"] == cache["Cos"] == 0
    assert denoiser["Sin"] == denoiser["Cos"] == 1
    graph = onnx.load(tiny_bundle / "unet/cache.onnx", load_external_data=False).graph
    assert [value.name for value in graph.input] == ["latent"]
    names = [tensor.name for tensor in graph.initializer]
    assert not [name for name in names if "attn2.to_k" in name or "time_emb_proj.weight" in name]


def test_the_unet_is_stored_once(tiny_bundle: Path) -> None:
    stored: list[set[tuple[int, int]]] = []
    for name in ("cache", "model"):
        graph = onnx.load(tiny_bundle / f"unet/{name}.onnx", load_external_data=False).graph
        places = set()
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                record = {entry.key: entry.value for entry in tensor.external_data}
                assert record["location"] == "weights.data"
                assert int(record["offset"]) % 64 == 0
                places.add((int(record["offset"]), int(record["length"])))
        stored.append(places)
    both = sum(length for _, length in stored[0] | stored[1])
    assert (tiny_bundle / "unet/weights.data").stat().st_size < 1.01 * both + 64 * 300
    # Keys' and values' projections and the constants alone are the caching graph's own.
    assert sum(length for _, length in stored[0] - stored[1]) < 0.05 * both


@pytest.mark.parametrize("mode", ["dual", "text_first"])
def test_the_runners_picture_is_pytorchs(
    tiny_bundle: Path, tiny_base: Path, tiny_adapters: Path, mode: GuidanceMode
) -> None:
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[4:28, 4:28] = np.random.default_rng(0).integers(0, 200, (24, 24, 3))
    prepared = prepare_reference(Image.fromarray(pixels), size=32).image
    reference, runner = DreamCachePipeline.load(str(tiny_base), tiny_adapters), Pipeline.load(tiny_bundle)
    subject = runner.cache(Image.fromarray(pixels))
    options = {"steps": 4, "seed": 3, "guidance_mode": mode, "guidance_scale": 7.5}
    cache = reference.cache(prepared)
    expected = reference.generate("a robot", cache, reference_guidance_scale=4.0, **options)[0]
    options["scheduler"] = "ddim"
    received = runner.generate("a robot", subject, reference_guidance_scale=4.0, **options)
    # One level of 255 is rounding.
    assert np.abs(np.asarray(expected, int) - np.asarray(received, int)).max() <= 1
    stock = runner.generate("a robot", subject, strength=0.0, **options)
    assert np.abs(np.asarray(stock, int) - np.asarray(received, int)).max() > 1


def test_plain_attention_uses_standard_operators_alone(
    tiny_bundle: Path, tiny_base: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    import onnxruntime

    architecture = open_bundle(tiny_bundle).contract.architecture
    conditioned = load_adapters(tiny_adapters, load_base(tiny_base).unet)
    inputs, outputs = denoiser_inputs(architecture), denoiser_outputs(architecture)
    with torch.no_grad():
        model = export_graph(DenoiserGraph(conditioned, "plain"), inputs, outputs)
    write_shared(tmp_path, {"model.onnx": model}, "weights.data")
    assert {node.domain for node in model.graph} == {""}
    random = np.random.default_rng(0)
    feed = {spec.name: random.standard_normal(spec.shape).astype(np.float32) for spec in inputs}
    feed["timestep"] = np.array([10, 600], np.float32)
    received, expected = (
        onnxruntime.InferenceSession(folder / "model.onnx").run(None, feed)[0]
        for folder in (tmp_path, tiny_bundle / "unet")
    )
    np.testing.assert_allclose(received, expected, atol=1e-5, rtol=1e-4)
    assert len(cache_tensors(architecture)) == 8


def test_an_existing_output_is_kept(tiny_bundle: Path, tiny_base: Path, tiny_adapters: Path) -> None:
    before = (tiny_bundle / CONTRACT_NAME).read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        export(out=tiny_bundle, base=str(tiny_base), adapters=tiny_adapters)
    assert (tiny_bundle / CONTRACT_NAME).read_bytes() == before


def test_graphs_of_other_adapters_fail_the_gate(
    tiny_bundle: Path, tiny_base: Path, tiny_adapters: Path
) -> None:
    contract = open_bundle(tiny_bundle).contract
    base = load_base(tiny_base)

    def measure(conditioned: ConditionedUNet) -> ParityReport:
        return measure_parity(
            tiny_bundle, contract.graphs, contract.architecture, base, conditioned, (100, 99)
        )

    measured = measure(load_adapters(tiny_adapters, base.unet)).psnr_db
    assert measured == pytest.approx(contract.parity.psnr_db, abs=6.0)
    with pytest.raises(ExportError, match=r"graph cache is .* dB from PyTorch"):
        measure(randomise_adapters(ConditionedUNet(base.unet), seed=8))


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def export_that_fails() -> None:
        with filled_folder(tmp_path / "bundle") as folder:
            (folder / CONTRACT_NAME).write_text("half")
            raise ExportError("a gate failed")

    with pytest.raises(ExportError, match="a gate"):
        export_that_fails()
    assert not list(tmp_path.iterdir())


def test_a_killed_run_is_cleaned_up_and_strangers_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    partial = partial_place(out)
    partial.mkdir()
    (partial / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="not left by an export"), filled_folder(out):
        pass
    assert (partial / "mine.txt").read_text() == "kept"
    (partial / MARKER).write_text("")
    with filled_folder(out) as folder:
        assert [path.name for path in folder.iterdir()] == [MARKER]
        (folder / CONTRACT_NAME).write_text("new")
    assert [path.name for path in out.iterdir()] == [CONTRACT_NAME]
    with filled_folder(out, overwrite=True) as folder:
        (folder / CONTRACT_NAME).write_text("newer")
    assert (out / CONTRACT_NAME).read_text() == "newer"
    (out / CONTRACT_NAME).rename(out / "holiday.txt")
    with pytest.raises(OutputError, match="something else than a bundle"), filled_folder(out, True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_adapters_of_another_base_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    other = tmp_path / "base"
    shutil.copytree(tiny_base, other)
    adapters = write_tiny_adapters(tmp_path / "adapters.safetensors", other)
    from safetensors.torch import load_file, save_file

    weights = other / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.bias"] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ExportError, match="belongs to the base"):
        export(out=tmp_path / "bundle", base=str(other), adapters=adapters)
    assert not (tmp_path / "bundle").exists()
