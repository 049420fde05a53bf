"""A bundle of a tiny SDXL: both text encoders, diffusers' picture at strength 0, the reference, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionXLPipeline
from edited_files import edit
from PIL import Image
from rich.console import Console
from stock_pictures import PROMPT, picture_db
from tiny_models import POOLED, SDXL_SHAPED, TEXT_WIDTH, write_tiny_adapters, write_tiny_sdxl

from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.export.resources import size_of_architecture
from dreamcache.models.bases.base import load_base
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.budgets.plan import stage_quantities
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, parse_contract
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_PSNR_DB, psnr_db
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.cli.inspect import bundle_tables
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.denoiser import Denoiser
from dreamcache.runtime.sampling.guidance import Branch

WIDTH = SDXL_SHAPED["cross_attention_dim"]


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "tiny")


@pytest.fixture(scope="module", name="adapters")
def _adapters(base: Path) -> Path:
    return write_tiny_adapters(base.parent / "adapters.safetensors", base, scale=2.0)


@pytest.fixture(scope="module", name="bundle")
def _bundle(base: Path, adapters: Path) -> Path:
    out = base.parent / "bundle"
    export(out=out, base=str(base), adapters=adapters, resolution="40x32", batch=2)
    return out


@pytest.fixture(scope="module", name="theirs")
def _theirs(base: Path) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)


def test_what_the_contract_says(bundle: Path) -> None:
    contract = open_bundle(bundle).contract
    shape = contract.architecture
    assert contract.format_version == 2
    assert (shape.text_width, shape.pooled_width) == (WIDTH, POOLED)
    assert contract.added_conditions is not None
    assert contract.added_conditions.time_ids == (32, 40, 0, 0, 32, 40)
    assert contract.text_2 is not None
    assert contract.text.pad_id != contract.text_2.pad_id == 0
    assert [spec.name for spec in contract.graphs.denoiser.inputs[3:6]] == [
        "reference_strength",
        "text_embeds",
        "time_ids",
    ]
    assert [site.name for site in shape.sites] == ["mid_block.attentions.0", "up_blocks.0.attentions.1"]
    assert (contract.guidance.mode, contract.guidance.guidance_scale) == ("dual", 5.0)
    index = json.loads((bundle / "model_index.json").read_text(encoding="utf-8"))
    assert index["text_encoder_2"] == ["transformers", "CLIPTextModelWithProjection"]
    second = contract.files["text_encoder_2/weights.data"].size
    assert stage_quantities(contract, "text").mapped == max(
        second, contract.files["text_encoder/weights.data"].size
    )
    # Twelve channels more at the top than any attention has: scores are counted where the attention is.
    plain = contract.model_copy(update={"attention": "plain"})
    assert stage_quantities(plain, "denoise").attention == 4 * 2 * 4 * (4 * 5) ** 2


def test_the_gates_held(bundle: Path) -> None:
    parity = open_bundle(bundle).contract.parity
    assert {"text_encoder", "text_encoder_2", "plain", "shallow"} < set(parity.psnr_db)
    assert min(parity.psnr_db.values()) >= MIN_PSNR_DB
    assert all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in parity.condition.values())
    assert all(check.passed for check in verify_bundle(bundle))
    console = Console(width=120)
    with console.capture() as shown:
        console.print(next(bundle_tables(open_bundle(bundle))))
    assert f"16 tokens of width {WIDTH}, two encoders, pooled {POOLED}" in shown.get()


def test_strength_0_is_diffusers_picture(bundle: Path, theirs: Any) -> None:
    runner = Pipeline.load(bundle)
    pixels = np.full((40, 40, 3), 255, np.uint8)
    pixels[8:30, 12:28] = (200, 40, 60)
    subject = runner.cache(Image.fromarray(pixels))
    assert picture_db(runner, theirs, subject) >= 55
    # A negative prompt is embedded; without one the null text is zeros, pooled and not.
    assert picture_db(runner, theirs, subject, negative_prompt="a") < 45
    assert picture_db(runner, theirs, subject, strength=1.0) < 45
    assert runner.generate(PROMPT, subject, steps=2, seed=1, step_cache=2).size == (40, 32)


def test_either_condition_counts(bundle: Path) -> None:
    runner = Pipeline.load(bundle)
    shape = runner.contract.architecture
    texts = runner.embed({"prompt": PROMPT})
    latent = np.random.default_rng(0).standard_normal(shape.latent_shape, dtype=np.float32)
    with runner.sessions.open("denoiser") as graph:

        def predicted(**changed: Any) -> Any:
            denoiser = Denoiser(graph, shape, {"prompt": {**texts["prompt"], **changed}}, None)
            return denoiser.predict(latent, 500, [Branch("prompt", 0.0)])[0]

        stock = predicted()
        assert np.array_equal(stock, predicted())
        for name in ("text", "text_embeds", "time_ids"):
            assert psnr_db(stock, predicted(**{name: texts["prompt"][name] + np.float32(1)})) < 60, name


def test_conditions_are_diffusers(bundle: Path, theirs: Any) -> None:
    runner = Pipeline.load(bundle)
    text, _, pooled, _ = theirs.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    empty, _, empty_pooled, _ = theirs.encode_prompt("", do_classifier_free_guidance=False)
    given = runner.embed({"prompt": PROMPT, "null": "", "empty": "", "negative": PROMPT})
    for name, wanted in {
        "prompt": (text, pooled),
        "empty": (empty, empty_pooled),
        "negative": (text, pooled),
    }.items():
        np.testing.assert_allclose(given[name]["text"], wanted[0].detach().numpy(), atol=1e-4)
        np.testing.assert_allclose(given[name]["text_embeds"], wanted[1].detach().numpy(), atol=1e-4)
        assert given[name]["time_ids"].tolist() == [[32, 40, 0, 0, 32, 40]]
    assert not given["null"]["text"].any()
    assert not given["null"]["text_embeds"].any()
    assert np.abs(given["empty"]["text_embeds"]).max() > 0.1
    assert given["prompt"]["text"][..., :TEXT_WIDTH].std() > 0.1


def test_a_base_that_wants_no_zeros_and_literal_schedules(base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    edit(folder / "scheduler/scheduler_config.json", steps_offset=0)
    loaded = load_base(folder)
    null, empty = (loaded.condition([""], (32, 32), null=null) for null in (True, False))
    assert null.text.equal(empty.text)
    assert null.text.abs().max() > 0.1
    # StableDiffusionXLPipeline repairs nothing.
    assert loaded.scheduler.config.steps_offset == 0
    assert load_base(base).scheduler.config.steps_offset == 1
    with pytest.raises(AdapterError, match=r"two text encoders.* training take SD 1.x and 2.x") as raised:
        loaded.encode_text(["a"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("absent", ["text_2", "added_conditions", "format_version"])
def test_a_contract_without_one_part_is_refused(bundle: Path, absent: str) -> None:
    raw = json.loads((bundle / CONTRACT_NAME).read_text(encoding="utf-8"))
    assert parse_contract(json.dumps(raw)).format_version == 2
    raw |= {"format_version": 1} if absent == "format_version" else {absent: None}
    with pytest.raises(BundleError, match=r"belong together|format version 2 is expected") as raised:
        parse_contract(json.dumps(raw))
    assert "\n" not in str(raised.value)
    # Another version's reader stops at the number, whatever else the contract holds.
    with pytest.raises(BundleError, match=r"newer than 2.*pip install --upgrade"):
        parse_contract(json.dumps(raw | {"format_version": 3}))


def _class(name: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder / "model_index.json", _class_name=name)


def _without(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("tokenizer_2"), "lacks tokenizer_2; expected a Stable Diffusion XL folder"),
        (_without("text_encoder_2"), "lacks text_encoder_2; expected"),
        (_class("StableDiffusionXLImg2ImgPipeline"), "is an SDXL refiner, which goes on"),
        (_class("StableDiffusionXLInpaintPipeline"), "is an SDXL inpainting model"),
        (
            lambda folder: edit(folder / "vae/config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
            "scales latents by channel",
        ),
        (
            lambda folder: edit(folder / "tokenizer_2/tokenizer_config.json", model_max_length=9),
            "the second tokenizer of .* pads prompts to 9 tokens",
        ),
        (
            lambda folder: edit(folder / "text_encoder_2/config.json", architectures=["T5EncoderModel"]),
            "is a T5EncoderModel, expected CLIPTextModelWithProjection",
        ),
    ],
)
def test_folders_that_are_no_whole_sdxl_are_one_line(
    base: Path, adapters: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(base, tmp_path / "base")
    damage(folder)
    with pytest.raises(ExportError, match=message) as raised:
        export(out=tmp_path / "bundle", base=str(folder), adapters=adapters)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "bundle").exists()


def test_sizes_that_its_unet_cannot_halve_and_downsampling(
    base: Path, adapters: Path, tmp_path: Path
) -> None:
    for options, message in (
        ({"resolution": "44x32"}, "44x32 px; this base takes multiples of 8 in width and height"),
        ({"kv_downsample": 2}, "no attention at its topmost level"),
    ):
        with pytest.raises(ExportError, match=message):
            export(out=tmp_path / "bundle", base=str(base), adapters=adapters, **options)  # type: ignore[arg-type]


def test_the_true_size_is_counted_before_a_weight_is_made() -> None:
    size = size_of_architecture("sdxl")
    millions = [round(count / 1e6) for count in (size.unet, size.text_encoder, size.vae)]
    # CLIP ViT-L's and OpenCLIP bigG's text encoders have 123M and 695M (arXiv 2307.01952, table 1: 817M).
    assert millions == [2567, 818, 84]
