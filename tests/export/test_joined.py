"""A bundle of a base with all that people add: TAESD, a LoRA and a textual inversion, drawn by the runner."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from diffusers import StableDiffusionPipeline
from joined_files import CONVOLUTIONS, TEXT_LAYERS, UNET_LAYERS, as_kohya, lora_matrices, tiny_taesd
from rich.console import Console
from safetensors.torch import save_file
from tiny_models import TEXT_WIDTH

from dreamcache.export.command import export
from dreamcache.export.int8.text_and_vae import quantise_components
from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.joined.additions import Additions
from dreamcache.models.pipeline import draw_noise
from dreamcache.runtime.bundle.contract import OverridesSpec, dump_contract, parse_contract
from dreamcache.runtime.bundle.folder import open_bundle, open_contract
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.cli.inspect import bundle_tables
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.subject import Subject

PROMPT = "a <toy> rat"


@pytest.fixture(scope="module", name="pipeline")
def _pipeline(
    tiny_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StableDiffusionPipeline, Path]:
    """diffusers' pipeline with all three, and the folder that they lie in."""
    folder = tmp_path_factory.mktemp("additions")
    theirs = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    theirs.set_progress_bar_config(disable=True)
    unet = lora_matrices(theirs.unet, (*UNET_LAYERS, *CONVOLUTIONS))
    save_file(
        as_kohya(unet, lora_matrices(theirs.text_encoder, TEXT_LAYERS, 1)), folder / "style.safetensors"
    )
    embedding = torch.randn(2, TEXT_WIDTH, generator=torch.Generator().manual_seed(5))
    save_file({"emb_params": embedding}, folder / "old.safetensors")
    tiny_taesd().save_pretrained(folder / "taesd")
    theirs.vae = tiny_taesd()
    theirs.load_textual_inversion(str(folder / "old.safetensors"), token="<toy>")
    theirs.load_lora_weights(str(folder / "style.safetensors"))
    theirs.fuse_lora(lora_scale=0.7)
    return theirs, folder


@pytest.fixture(scope="module", name="out")
def _out(pipeline: tuple[StableDiffusionPipeline, Path], tiny_base: Path, tiny_adapters: Path) -> Path:
    """The bundle with all three."""
    folder = pipeline[1]
    out = folder / "bundle"
    export(
        out=out, base=str(tiny_base), adapters=tiny_adapters, vae=str(folder / "taesd"),
        lora=[f"{folder / 'style.safetensors'}:0.7"], textual_inversion=[f"{folder / 'old.safetensors'}:<toy>"],
        prediction="epsilon",
    )  # fmt: skip
    return out


def test_taesd_in_8_bits_and_for_core_ml(
    pipeline: tuple[StableDiffusionPipeline, Path], out: Path, tiny_base: Path, tmp_path: Path
) -> None:
    contract = open_bundle(out).contract
    latent = draw_noise(3, (4, 8, 8), 1)
    vae = pipeline[0].vae
    with torch.no_grad():
        expected = vae.decode(torch.from_numpy(latent)).sample.numpy()
    eight = shutil.copytree(out, tmp_path / "int8")
    quantise_components(eight, contract.graphs, [latent], lambda *_: None)
    graphs = contract.graphs.by_name()
    for name in ("vae_encoder", "vae_decoder"):
        kinds = {node.op_type for node in ir.load(eight / graphs[name].file).graph}
        assert "QuantizeLinear" in kinds, name
    spec = graphs["vae_decoder"]
    decode = ort.InferenceSession(eight / spec.file, providers=["CPUExecutionProvider"])
    (found,) = decode.run(None, {spec.inputs[0].name: latent})
    assert 50 <= psnr_db(expected, found) < 90
    pytest.importorskip("coremltools")
    from dreamcache.export.coreml.convert import convert_graph
    from dreamcache.export.coreml.mil.interpreter import Interpreter
    from dreamcache.export.coreml.mil.package import open_package
    from dreamcache.export.coreml.mil.program import read_program
    from dreamcache.export.coreml.modules import component_modules

    base = load_base(tiny_base, additions=Additions(vae=str(pipeline[1] / "taesd")))
    part = component_modules(base, contract.architecture)["vae_decoder"]
    convert_graph(part.module, part.inputs, part.outputs, tmp_path / "VAEDecoder.mlpackage")
    (function,) = read_program(open_package(tmp_path / "VAEDecoder.mlpackage")).values()
    (found,) = Interpreter(function, "fp16").run({part.inputs[0].name: latent}).values()
    assert psnr_db(expected, found) >= 60
    # A column further is another picture.
    assert psnr_db(expected, np.roll(found, 1, axis=-1)) < 45


def test_pictures_are_diffusers_and_the_contract_names_what_was_joined(
    pipeline: tuple[StableDiffusionPipeline, Path], out: Path, tiny_bundle: Path
) -> None:
    theirs = pipeline[0]
    runner = Pipeline.load(out)
    picture = runner.generate(PROMPT, None, steps=20, seed=3, guidance_mode="classic", guidance_scale=7.5)
    latents = torch.from_numpy(draw_noise(3, (4, 8, 8), 1))

    def decibels(prompt: str) -> float:
        drawn = theirs(
            prompt,
            num_inference_steps=20,
            guidance_scale=7.5,
            latents=latents,
            output_type="np",
            height=32,
            width=32,
        )
        error = np.mean((drawn.images[0] - np.asarray(picture) / 255) ** 2)
        return -10 * math.log10(float(error))

    assert decibels(PROMPT) >= 55
    assert decibels("a rat") < 50
    contract, plain = open_bundle(out).contract, open_bundle(tiny_bundle).contract
    assert [(one.kind, one.name, one.weight, one.tokens) for one in contract.joined] == [
        ("vae", "taesd", None, ()),
        ("lora", "style.safetensors", 0.7, ()),
        ("textual_inversion", "old.safetensors", None, ("<toy>", "<toy>_1")),
    ]
    assert contract.overrides == OverridesSpec(prediction="epsilon")
    assert plain.overrides is None
    assert contract.text.vectors == {"<toy>": 2}
    # Two forms of a graph are format 2 too; with one form alone, what was joined is what asks for it.
    old = json.loads(dump_contract(plain)) | {"format_version": 1}
    with pytest.raises(BundleError, match="format version 2 is expected, received 1"):
        parse_contract(json.dumps(old))
    for graph in old["graphs"].values():
        if isinstance(graph, dict):
            graph.pop("portable", None)
    assert (contract.format_version, parse_contract(json.dumps(old)).format_version) == (2, 1)
    assert (contract.vae.scaling_factor, plain.vae.scaling_factor) == (1.0, 0.9)
    # Adapters belong to the base as it was; subjects belong to the graphs, which are others.
    assert contract.fingerprints.base == plain.fingerprints.base
    assert contract.fingerprints.graph != plain.fingerprints.graph
    with Console(width=200, record=True) as console:
        for table in bundle_tables(open_contract(out)):
            console.print(table)
    shown = console.export_text()
    assert "style.safetensors" in shown
    assert "--prediction epsilon" in shown
    old |= {"overrides": {"ema": True}}
    with pytest.raises(BundleError, match="format version 2 is expected, received 1"):
        parse_contract(json.dumps(old))
    assert "<toy> <toy>_1" in shown
    assert isinstance(runner.cache(picture), Subject)
