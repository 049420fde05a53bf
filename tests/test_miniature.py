"""The shipped miniature: a diffusers folder within its size, that a bundle of it draws photographs' subjects too."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from dreamcache.models.bases.base import MINI_ADAPTERS, MINI_DIR, load_base
from dreamcache.models.checkpoint import load_adapters, read_adapters
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.web.certificate import temporary_context

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LIMIT_MB = 62
COMMAND = [sys.executable, "-m", "dreamcache.runtime.cli"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mini") / "bundle"
    done = subprocess.run(
        [*COMMAND, "export", "--base", "mini", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


def test_weights_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    files = sorted(MINI_DIR.rglob("*.safetensors"))
    assert len(files) == 5, "unet, vae, text encoder, adapters, segmenter"
    assert sum(file.stat().st_size for file in files) / 1e6 <= LIMIT_MB
    for file in files:
        with safe_open(file, framework="np") as tensors:
            assert {tensors.get_slice(key).get_dtype() for key in tensors.keys()} == {"F16"}, file.name  # noqa: SIM118


def test_diffusers_loads_the_folder_and_it_is_the_same_unet() -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(MINI_DIR, safety_checker=None)
    ours = load_base("mini")
    for name, value in pipeline.unet.state_dict().items():
        assert torch.equal(value, ours.unet.state_dict()[name]), name
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    picture = pipeline("a toy robot on the beach", num_inference_steps=2).images[0]
    assert picture.size == (128, 128)


def test_adapters_sit_in_the_middle_and_in_every_second_decoder_block() -> None:
    conditioned = load_adapters(MINI_ADAPTERS, load_base("mini").unet)
    assert [site.name for site in conditioned.sites] == [
        "mid_block.attentions.0",
        "up_blocks.0.attentions.1",
        "up_blocks.1.attentions.1",
        "up_blocks.2.attentions.1",
    ]
    assert {site.width for site in conditioned.sites} == {96, 192, 256}
    _, metadata = read_adapters(MINI_ADAPTERS)
    assert json.loads(metadata["guidance"])["mode"] in {"dual", "text_first", "classic"}


def test_the_card_states_data_steps_losses_and_commands() -> None:
    configs = [path.read_text(encoding="utf-8") for path in MINI_DIR.rglob("*config.json")]
    assert len(configs) == 5
    assert not [text for text in configs if "_name_or_path" in text], (
        "a folder of the machine that trained it"
    )
    card = (MINI_DIR / "README.md").read_text(encoding="utf-8")
    for word in ("apache-2.0", "174,960", "seconds", "seed", "dreamcache train miniature all", "dB"):
        assert word in card
    for stage in ("autoencoder", "decoder", "base", "adapters", "judge", "segmenter"):
        record = json.loads((MINI_DIR / "training" / f"{stage}.json").read_text())
        assert f"{record['steps']:,}" in card
        assert len(record["losses"]) == record["steps"] // record["schedule"].get("log_every", 1)


def generate(bundle: Path, reference: Path, out: Path, *more: str) -> dict[str, Any]:
    arguments = [
        "generate",
        str(bundle),
        "--reference",
        str(reference),
        "--prompt",
        "a toy bear in the forest",
    ]
    done = subprocess.run(
        [*COMMAND, *arguments, "--out", str(out), "--steps", "8", "--seed", "3", "--json", *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_the_runner_s_own_bundle_is_of_this_miniature(bundle: Path) -> None:
    """An export of today and the committed one in 8 bits agree in all that precision does not change."""
    fresh, shipped = open_bundle(bundle), open_bundle("mini")
    ours, theirs = fresh.contract, shipped.contract
    assert theirs.precision == "int8"
    assert (ours.fingerprints.base, ours.fingerprints.adapters) == (
        theirs.fingerprints.base, theirs.fingerprints.adapters,
    )  # fmt: skip
    assert ours.fingerprints.graph != theirs.fingerprints.graph
    for part in ("architecture", "text", "vae", "scheduler", "guidance", "cache_timestep", "weights"):
        assert getattr(ours, part) == getattr(theirs, part), part
    same = [name for name in theirs.files if name.split("/")[0] in ("tokenizer", "scheduler", "segmenter")]
    assert len(same) >= 6
    assert all(ours.files[name] == theirs.files[name] for name in same)
    assert set(ours.files) == set(theirs.files)


@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_photographs_go_through_and_change_the_picture(bundle: Path, tmp_path: Path, name: str) -> None:
    photograph = tmp_path / f"{name}.jpg"
    Image.fromarray(getattr(skimage.data, name)()).save(photograph)
    said = generate(bundle, photograph, tmp_path / "with.png")
    assert said["background"]
    generate(bundle, photograph, tmp_path / "again.png")
    generate(bundle, photograph, tmp_path / "without.png", "--strength", "0")
    pictures = {path.stem: np.asarray(Image.open(path), np.int16) for path in tmp_path.glob("*.png")}
    assert np.array_equal(pictures["with"], pictures["again"])
    assert np.abs(pictures["with"] - pictures["without"]).mean() > 3


def test_evaluation_guides_a_bundle_as_it_is_asked_to(bundle: Path, tmp_path: Path) -> None:
    def evaluated(name: str, *more: str) -> dict[str, Any]:
        few = ["--identities", "1", "--scenes", "1", "--steps", "3", "--condition", "dreamcache"]
        command = [
            *COMMAND,
            "evaluate",
            "toys",
            "--bundle",
            str(bundle),
            *few,
            "--json",
            str(tmp_path / name),
            *more,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        record: dict[str, Any] = json.loads((tmp_path / name).read_text(encoding="utf-8"))
        return record

    usual, other, again = (
        evaluated("a"),
        evaluated("b", "--mode", "classic", "--guidance", "2"),
        evaluated("c"),
    )
    assert other["settings"]["guidance_mode"] == "classic"
    assert usual["results"] == again["results"]
    assert (
        usual["results"]["dreamcache"]["colour_distance"] != other["results"]["dreamcache"]["colour_distance"]
    )


def test_a_browser_draws_pythons_picture(
    bundle: Path, chromium: Browser, javascript: dict[str, Path], tmp_path: Path
) -> None:
    from page_files import draw, give_file, serving, visit

    photograph, prompt = tmp_path / "cat.jpg", "a toy bear in the forest"
    Image.fromarray(skimage.data.chelsea()).save(photograph)
    with serving(bundle, javascript, tmp_path, temporary_context(["127.0.0.1"])) as (pipeline, server):
        page = visit(chromium, server)
        give_file(page, "photograph", photograph)
        received = draw(page, prompt, steps=3, seed=7)
    subject = pipeline.cache(photograph)
    expected = np.asarray(pipeline.generate(prompt, subject, steps=3, seed=7), np.int16)
    assert (np.abs(received - expected) <= 1).mean() >= 0.999
    # without its reference it is another picture
    stock = np.asarray(pipeline.generate(prompt, steps=3, seed=7), np.int16)
    assert (np.abs(received - stock) <= 1).mean() < 0.5


def test_verify_passes_and_fails_once_a_weight_is_touched(bundle: Path) -> None:
    verify = [*COMMAND, "verify", str(bundle), "--json"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert json.loads(done.stdout)["passed"]
    weights = bundle / "unet" / "weights.data"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "weights.data" in done.stdout + done.stderr


def test_the_runner_s_own_bundle_is_right_in_a_second_engine() -> None:
    pytest.importorskip("openvino")
    checks = {check.name: check for check in verify_bundle("mini", ["openvino"])}
    assert [name for name, check in checks.items() if not check.passed] == []
    assert {"golden cache", "golden denoiser", "golden shallow", "effect of the reference"} <= set(checks)


def test_no_portable_graph_pads_with_a_computed_value() -> None:
    """OpenVINO 2026.4 takes that for something else: 6 dB from PyTorch."""
    shipped = open_bundle("mini")
    graphs = shipped.contract.graphs.by_name()
    for spec in (graphs[name] for name in ("cache", "denoiser", "shallow", "plain")):
        assert computed_pads(shipped.path(spec.file)) > 0
        assert computed_pads(shipped.path(str(spec.portable))) == 0


def computed_pads(file: Path) -> int:
    import onnx_ir as ir

    pads = [node for node in ir.load(file).graph if node.op_type == "Pad" and len(node.inputs) > 2]
    return sum(node.inputs[2] is not None and node.inputs[2].const_value is None for node in pads)
