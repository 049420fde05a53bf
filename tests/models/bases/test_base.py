"""What `load_base` takes, and every source that it answers with one line instead."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler, TCDScheduler, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from edited_files import edit, one_line
from hub_stand_in import HubOfFolders
from tiny_models import TEXT_WIDTH, save_scheduler, tiny_unet, write_tiny_base

from dreamcache.models.bases import hub
from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.checkpoint import base_fingerprint
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.errors import AdapterError

WEIGHTS = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")


@pytest.mark.parametrize("entry", [{"in_channels": None}, {"only_cross_attention": True}])
def test_a_config_that_its_class_cannot_read_is_one_line(folder: Path, entry: dict[str, Any]) -> None:
    edit(folder / "unet/config.json", **entry)
    with pytest.raises(AdapterError, match=r"unet cannot be read \(.*correct its config.json") as raised:
        load_base(folder)
    one_line(raised.value)


def store_half(folder: Path) -> None:
    """Replace the weights by half-precision ones under the names that diffusers gives a variant."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    for kind, part in (
        (UNet2DConditionModel, "unet"),
        (AutoencoderKL, "vae"),
        (CLIPTextModel, "text_encoder"),
    ):
        model = kind.from_pretrained(folder / part).half()
        for stale in (folder / part).glob("*.safetensors"):
            stale.unlink()
        model.save_pretrained(folder / part, variant="fp16", safe_serialization=True)
    assert {path.name for path in folder.rglob("*.safetensors")} == {
        "diffusion_pytorch_model.fp16.safetensors",
        "model.fp16.safetensors",
    }


def test_a_half_precision_variant_is_the_same_base_in_float32(tiny_base: Path, folder: Path) -> None:
    store_half(folder)
    whole, half = load_base(tiny_base), load_base(folder)
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in half.text_encoder.parameters()} == {torch.float32}
    for model, other in (
        (whole.unet, half.unet),
        (whole.vae, half.vae),
        (whole.text_encoder, half.text_encoder),
    ):
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor.half().float()), name
    assert base_fingerprint(half.unet) == base_fingerprint(whole.unet)
    # Rounding is there to be seen: the weights themselves differ.
    assert not torch.equal(half.unet.conv_in.weight, whole.unet.conv_in.weight)


def test_the_variant_is_chosen_where_there_are_both(tiny_base: Path, folder: Path) -> None:
    store_half(folder)
    for name in WEIGHTS:
        shutil.copy(tiny_base / f"{name}.safetensors", folder / f"{name}.safetensors")
    plain = load_base(tiny_base).unet.conv_in.weight
    assert torch.equal(load_base(folder).unet.conv_in.weight, plain)
    assert torch.equal(load_base(folder, variant="fp16").unet.conv_in.weight, plain.half().float())
    with pytest.raises(AdapterError, match="no weights of the variant 'fp8'; it has plain ones, fp16"):
        load_base(folder, variant="fp8")


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_prediction_type_is_the_folders(tmp_path: Path, prediction_type: str) -> None:
    base = load_base(write_tiny_base(tmp_path / "base", prediction_type=prediction_type))
    assert base.scheduler.config.prediction_type == prediction_type
    assert base.sampling == "standard"


def test_a_schedule_that_says_nothing_of_clipping_does_not_clip(folder: Path) -> None:
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear"}),
        encoding="utf-8",
    )
    edit(folder / "model_index.json", scheduler=["diffusers", "EulerDiscreteScheduler"])
    base = load_base(folder)
    assert base.scheduler.config.clip_sample is False
    assert base.scheduler.config.set_alpha_to_one is False
    assert base.sampling == "standard"


TRAILING = {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (EulerDiscreteScheduler(**TRAILING), "turbo"),
        (EulerDiscreteScheduler(**TRAILING, rescale_betas_zero_snr=True), "standard"),
        (LCMScheduler(), "lcm"),
        (TCDScheduler(), "lcm"),
    ],
)
def test_few_step_bases_are_recognised(folder: Path, scheduler: SchedulerMixin, expected: str) -> None:
    save_scheduler(folder, scheduler)
    assert load_base(folder).sampling == expected
    assert load_base(folder, sampling="standard").sampling == "standard"


DISTILLED: dict[str, dict[str, Any]] = {
    "bk-sdm-base": {"layers_per_block": 1},
    "bk-sdm-small": {"layers_per_block": 1, "mid_block_type": None},
    "bk-sdm-tiny": {
        "layers_per_block": 1,
        "mid_block_type": None,
        "block_out_channels": (16, 32, 48),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3,
    },
    "a middle block without attention": {"mid_block_type": "UNetMidBlock2D"},
    "levels of their own length": {"layers_per_block": (2, 1, 1, 2)},
}
SITES = {
    "bk-sdm-base": ["mid_block.attentions.0", *(f"up_blocks.{i}.attentions.1" for i in (1, 2, 3))],
    "bk-sdm-small": [f"up_blocks.{i}.attentions.1" for i in (1, 2, 3)],
    "bk-sdm-tiny": [f"up_blocks.{i}.attentions.1" for i in (0, 1, 2)],
}


@pytest.mark.parametrize("name", DISTILLED)
def test_distilled_unets_are_walked_bit_for_bit(name: str) -> None:
    unet = tiny_unet(**DISTILLED[name])
    conditioned = ConditionedUNet(unet)
    if name in SITES:
        assert [site.name for site in conditioned.sites] == SITES[name]
    latent, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_WIDTH)
    with torch.no_grad():
        expected = unet(latent, 300, text).sample
        assert torch.equal(conditioned(latent, 300, text), expected)
        assert not torch.equal(conditioned(latent, 301, text), expected)


def test_a_second_text_encoder_makes_it_sdxl_which_must_be_whole(folder: Path) -> None:
    edit(folder / "model_index.json", text_encoder_2=["transformers", "CLIPTextModelWithProjection"])
    with pytest.raises(AdapterError, match=r"model_index.json of .* names no tokenizer_2, without which"):
        load_base(str(folder))
    edit(folder / "model_index.json", tokenizer_2=["transformers", "CLIPTokenizer"])
    with pytest.raises(
        FileNotFoundError, match="lacks text_encoder_2, tokenizer_2; expected a Stable Diffusion XL"
    ):
        load_base(str(folder))


def test_a_folder_takes_no_other_config(folder: Path, tiny_base: Path) -> None:
    with pytest.raises(AdapterError, match="brings its own configs"):
        load_base(folder, config=tiny_base)


@pytest.mark.parametrize("model_id", [*hub.WITHDRAWN, *hub.INPAINTING])
def test_withdrawn_ids_are_answered_without_the_hub(model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("the Hub was asked"))
    with pytest.raises(AdapterError, match=r"use [a-z0-9-]+/stable-diffusion-") as raised:
        load_base(model_id)
    assert one_line(raised.value).startswith(model_id)


def test_an_id_with_half_precision_weights_alone(
    tiny_base: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = HubOfFolders({"somebody/plain": tiny_base}, tmp_path / "cache")
    monkeypatch.setattr(hub, "snapshot_download", local)
    assert isinstance(load_base("somebody/plain"), Base)
    assert len(local.asked) == 2
    store_half(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    half = HubOfFolders({"somebody/half": folder}, tmp_path / "cache of half")
    monkeypatch.setattr(hub, "snapshot_download", half)
    assert isinstance(load_base("somebody/half"), Base)
    assert len(half.asked) == 3
    assert len(half.held("somebody/half")) > 10
    assert not list((tmp_path / "cache of half").rglob("*.bin"))


def test_an_unsupported_id_costs_its_table_of_contents_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder / "model_index.json", transformer=["diffusers", "SD3Transformer2DModel"])
    local = HubOfFolders({"somebody/sd3": folder}, tmp_path / "cache")
    monkeypatch.setattr(hub, "snapshot_download", local)
    with pytest.raises(AdapterError, match="somebody/sd3 denoises with a transformer"):
        load_base("somebody/sd3")
    assert local.held("somebody/sd3") == ["model_index.json"]
    with pytest.raises(
        FileNotFoundError, match=r"cannot be fetched from the Hub \(401 Client Error.\)"
    ) as raised:
        load_base("somebody/nothing")
    one_line(raised.value)


def test_what_has_not_the_form_of_an_id_is_one_line() -> None:
    with pytest.raises(
        FileNotFoundError, match=r"cannot be fetched from the Hub \(.*; check the id"
    ) as raised:
        load_base("some body/sd 1")
    one_line(raised.value)
