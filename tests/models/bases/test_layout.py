"""Where parts of a checkpoint lie, by whatever tool wrote it; what is no part of it; what its buffers say."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from ldm_layout import write_ldm_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.original.layout import originals, refuse_unplaced
from dreamcache.models.bases.original.statements import check_buffers
from dreamcache.models.bases.parts.overrides import Overrides
from dreamcache.models.errors import AdapterError, BaseWarning

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module", name="tensors")
def _tensors(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return load_file(write_ldm_checkpoint(tmp_path_factory.mktemp("ldm") / "m.safetensors", tiny_base))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (UNET, "diffusion_model."),
        (UNET, "unet."),
        (UNET, ""),
        (UNET, f"{UNET}_orig_mod."),
        (UNET, f"model.{UNET}"),
        ("", "state_dict."),
        ("", "module."),
        (VAE, "vae."),
        (VAE, f"model.{VAE}"),
        (VAE, ""),
        (TEXT, "conditioner.embedders.0.transformer."),
        (TEXT, "clip_l.transformer."),
        (TEXT, "text_encoders.clip_l.transformer."),
        (TEXT, "cond_stage_model."),
        (f"{TEXT}text_model.", "text_model."),
        (f"{TEXT}text_model.", ""),
        (f"{TEXT}text_model.", "text_encoder."),
        (f"{VAE}encoder.mid.attn_1.q.", f"{VAE}encoder.mid.attn_1.to_q."),
        (f"{VAE}decoder.mid.attn_1.proj_out.", f"{VAE}decoder.mid.attn_1.to_out.0."),
        (f"{VAE}decoder.mid.attn_1.v.", f"{VAE}decoder.mid.attn_1.value."),
    ],
)
def test_every_place_is_found(tensors: dict[str, Tensor], old: str, new: str) -> None:
    moved = {new + key.removeprefix(old) if key.startswith(old) else key: key for key in tensors}
    assert old == "" or moved.keys() != tensors.keys()
    placed = originals("m", moved)
    refuse_unplaced("m", placed)
    # The buffer stays where it is.
    assert {key: placed[name] for name, key in moved.items() if key != "betas"} == {
        key: key for key in tensors if key != "betas"
    }


def test_open_clip_in_stability_ais_layout() -> None:
    keys = (
        "token_embedding.weight",
        "positional_embedding",
        "transformer.resblocks.0.ln_1.bias",
        "ln_final.bias",
    )
    placed = originals("m", [f"conditioner.embedders.0.model.{key}" for key in keys])
    assert list(placed.values()) == [f"cond_stage_model.model.{key}" for key in keys]


def test_a_checkpoint_of_another_tool_is_the_same_base(
    tensors: dict[str, Tensor], tiny_base: Path, tmp_path: Path
) -> None:
    places = {UNET: "diffusion_model.", VAE: "model.first_stage_model.", f"{TEXT}text_model.": "text_model."}
    moved = {}
    for key, tensor in tensors.items():
        old = next((start for start in places if key.startswith(start)), "")
        moved[places.get(old, "") + key.removeprefix(old)] = tensor
    save_file(moved, tmp_path / "m.safetensors")
    ours, theirs = load_base(tmp_path / "m.safetensors", config=tiny_base), load_base(tiny_base)
    for part in ("unet", "vae", "text_encoder"):
        expected, received = getattr(theirs, part).state_dict(), getattr(ours, part).state_dict()
        assert all(torch.equal(received[name], expected[name]) for name in expected), part


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {f"vae.{key}": 1 for key in ("decoder.conv_in.weight",)},
            "more than one VAE .*'first_stage.* and 'vae.'",
        ),
        ({"text_model.embeddings.token_embedding.weight": 1}, "more than one text encoder"),
        ({"conditioner.embedders.0.model.token_embedding.weight": 1}, "more than one text encoder"),
        (
            {f"{VAE}decoder.up_blocks.0.resnets.0.conv1.weight": 1},
            "one file with diffusers' names .first_stage",
        ),
        ({"edm_vpred.sigma_max": 1}, "keys that no part of Stable Diffusion reads: edm_vpred.sigma_max;"),
        ({"lora_unet_x.lora_up.weight": 1}, "no part of Stable Diffusion reads: lora_unet"),
        ({"bundle_emb.toy.string_to_param.*": 1}, "by --lora or --textual-inversion"),
        ({"state_dict.v_pred": 1}, "no part of Stable Diffusion reads: state_dict.v_pred"),
        ({"text_encoders.clip_g.transformer.x": 1}, "has two text encoders, as SDXL does"),
        ({"alphas_cumprod": 1}, r"another noise schedule \(alphas_cumprod\)"),
        ({"scale_factor": 1}, r"scaled by 1 \(scale_factor\), and its config 0.9; give --base-config"),
    ],
)
def test_what_is_no_part_of_it_is_one_line(
    tensors: dict[str, Tensor], tiny_base: Path, tmp_path: Path, more: dict[str, float], message: str
) -> None:
    extra = {key: torch.full((1,), float(value)) for key, value in more.items()}
    save_file(tensors | extra, tmp_path / "m.safetensors")
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(tmp_path / "m.safetensors", config=tiny_base)
    assert "\n" not in str(raised.value)


def test_a_unet_alone_is_named(tensors: dict[str, Tensor], tiny_base: Path, tmp_path: Path) -> None:
    alone = {key.removeprefix(UNET): tensor for key, tensor in tensors.items() if key.startswith(UNET)}
    save_file(alone, tmp_path / "m.safetensors")
    vae = load_base(tiny_base).vae
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(
        AdapterError, match=r"text encoder of .* lacks all its weights: a UNet alone, or with a VAE;"
    ):
        load_base(tmp_path / "m.safetensors", config=tiny_base)


def test_buffers_are_held_to_the_configs(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = (1 - betas).cumprod(0)
    save_file({"scale_factor": torch.tensor(0.18215).half(), "alphas_cumprod": alphas.bfloat16()}, path)
    check_buffers(path, 0.18215, SCHEDULE)
    check_buffers(path, None, SCHEDULE)
    # Trained with zero terminal SNR on the buffers of the base that it was made from.
    check_buffers(path, None, SCHEDULE | {"rescale_betas_zero_snr": True})
    for scale, schedule, message in (
        (0.13025, SCHEDULE, "scaled by 0.182"),
        (None, SCHEDULE | {"beta_end": 0.02}, "another noise schedule .*give --base-config"),
        (None, SCHEDULE | {"num_train_timesteps": 500}, "another noise schedule"),
    ):
        with pytest.raises(AdapterError, match=message):
            check_buffers(path, scale, schedule)
    save_file({"alphas_cumprod": alphas * torch.linspace(1, 0, 1000)}, path)
    with pytest.raises(AdapterError, match="its last step holds no signal: give --zero-terminal-snr"):
        check_buffers(path, None, SCHEDULE)


@pytest.mark.parametrize(
    ("stated", "clip_skip", "warned"),
    [("2", 0, "--clip-skip 1"), ("1", 0, None), ("2", 1, None), ("first", 0, None)],
)
def test_layers_that_a_file_leaves_out_are_warned_of(
    tensors: dict[str, Tensor],
    tiny_base: Path,
    tmp_path: Path,
    stated: str,
    clip_skip: int,
    warned: str | None,
) -> None:
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, metadata={"modelspec.encoder_layer": stated})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded = load_base(path, config=tiny_base, overrides=Overrides(clip_skip=clip_skip))
    texts = [str(one.message) for one in said if one.category is BaseWarning]
    assert len(texts) == (warned is not None)
    assert warned is None or f"modelspec.encoder_layer {stated}" in texts[0]
    assert warned is None or warned in texts[0]
    assert loaded.text_encoder.config.num_hidden_layers == 2 - clip_skip
