"""What a user says of a base comes before its configs, as in diffusers; a checkpoint's own word is not overruled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from hub_stand_in import HubOfFolders
from ldm_layout import write_ldm_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from dreamcache.models.bases import hub
from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.original.single_file import recognise
from dreamcache.models.bases.original.statements import Statement, agreed
from dreamcache.models.bases.parts.overrides import Overrides
from dreamcache.models.errors import AdapterError

UNET = "model.diffusion_model."


@pytest.fixture(scope="module", name="tensors")
def _tensors(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return load_file(write_ldm_checkpoint(tmp_path_factory.mktemp("ldm") / "m.safetensors", tiny_base))


def test_prediction_and_schedule_of_a_folder(tiny_base: Path) -> None:
    velocity = load_base(tiny_base, overrides=Overrides("v_prediction", zero_terminal_snr=True))
    # How a user of diffusers says the same.
    theirs = DDIMScheduler.from_config(
        load_base(tiny_base).scheduler.config, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    assert torch.equal(velocity.scheduler.betas, theirs.betas)
    assert velocity.scheduler.config.prediction_type == velocity.schedule["prediction_type"] == "v_prediction"
    assert (
        float(velocity.scheduler.alphas_cumprod[-1])
        < 1e-7
        < float(load_base(tiny_base).scheduler.alphas_cumprod[-1])
    )


def test_a_checkpoint_s_own_word_is_not_overruled(
    tensors: dict[str, Tensor], tiny_base: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    save_file(tensors, path)
    silent = load_base(path, config=tiny_base, overrides=Overrides("v_prediction"))
    assert silent.scheduler.config.prediction_type == "v_prediction"
    save_file(tensors, path, metadata={"modelspec.prediction_type": "epsilon"})
    with pytest.raises(
        AdapterError, match=r"of itself that it predicts epsilon, received --prediction v_"
    ) as raised:
        load_base(path, config=tiny_base, overrides=Overrides("v_prediction"))
    assert "\n" not in str(raised.value)
    load_base(path, config=tiny_base, overrides=Overrides("epsilon"))


def test_the_option_settles_what_keys_leave_open() -> None:
    shapes = {f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 1024]}
    with pytest.raises(AdapterError, match="a diffusers folder, or --prediction"):
        recognise(Path("m"), shapes)
    assert recognise(Path("m"), shapes, agreed("m", Statement(), "v_prediction")) == "sd21"
    assert recognise(Path("m"), shapes, agreed("m", Statement(), "epsilon")) == "sd21-base"


def test_clip_skip_is_diffusers(tiny_base: Path) -> None:
    theirs = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None)
    expected, _ = theirs.encode_prompt("a robot", "cpu", 1, False, clip_skip=1)
    ours = load_base(tiny_base, overrides=Overrides(clip_skip=1)).encode_text(["a robot"])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    assert (load_base(tiny_base).encode_text(["a robot"]) - expected).abs().max() > 1e-2
    # For the negative prompt too, which is diffusers with a text encoder of a layer less, and not its clip_skip.
    skipped = load_base(tiny_base, overrides=Overrides(clip_skip=1)).encode_text(["a cat"])
    for how, same in (({}, True), ({"clip_skip": 1}, False)):
        layers = 2 if how else 1
        shorter = CLIPTextModel.from_pretrained(tiny_base / "text_encoder", num_hidden_layers=layers)
        theirs = StableDiffusionPipeline.from_pretrained(tiny_base, safety_checker=None, text_encoder=shorter)
        prompt, negative = theirs.encode_prompt("a robot", "cpu", 1, True, "a cat", **how)
        torch.testing.assert_close(prompt, expected, rtol=0, atol=1e-6)
        assert bool((negative - skipped).abs().max() < 1e-6) == same
    for layers in (2, -1):
        with pytest.raises(AdapterError, match=rf"from 0 to 1 is expected for .*, received {layers}$"):
            load_base(tiny_base, overrides=Overrides(clip_skip=layers))


def test_averaged_weights_by_choice(tensors: dict[str, Tensor], tiny_base: Path, tmp_path: Path) -> None:
    path, wanted = tmp_path / "m.safetensors", Overrides(ema=True)
    copies = {
        f"model_ema.{name.removeprefix('model.').replace('.', '')}": tensor + 1
        for name, tensor in tensors.items()
        if name.startswith(UNET)
    }
    save_file(tensors | copies, path)
    plain = load_base(path, config=tiny_base).unet.state_dict()
    averaged = load_base(path, config=tiny_base, overrides=wanted)
    assert all(torch.equal(averaged.unet.state_dict()[name], tensor + 1) for name, tensor in plain.items())
    assert torch.equal(averaged.vae.post_quant_conv.weight, load_base(tiny_base).vae.post_quant_conv.weight)
    copies.popitem()
    save_file(tensors | copies, path)
    with pytest.raises(AdapterError, match=r"holds no averaged copy of .*; leave --ema out"):
        load_base(path, config=tiny_base, overrides=wanted)
    with pytest.raises(AdapterError, match="averaged weights are files of their own"):
        load_base(tiny_base, overrides=wanted)


def test_a_revision_of_the_hub(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = HubOfFolders({"owner/name": tiny_base}, tmp_path / "cache")
    monkeypatch.setattr(hub, "snapshot_download", served)
    load_base("owner/name@refs/pr/3")
    assert {wanted.get("revision") for wanted in served.asked} == {"refs/pr/3"}
    served.asked.clear()
    load_base("owner/name")
    assert {wanted.get("revision") for wanted in served.asked} == {None}
    for source in ("owner/name@", "@main", "name@main"):
        with pytest.raises(FileNotFoundError, match="no base at"):
            load_base(source)
    with pytest.raises(AdapterError, match="was withdrawn"):
        load_base("runwayml/stable-diffusion-v1-5@fp16")
