"""Folders that cannot be a base, or that diffusers itself does not load or draw: one line each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from edited_files import edit, one_line
from tiny_models import MINI_SHAPED, tiny_unet

from dreamcache.models.bases.base import load_base
from dreamcache.models.errors import AdapterError


def transformer(folder: Path) -> None:
    edit(folder / "model_index.json", transformer=["diffusers", "SD3Transformer2DModel"])


def transformer_folder(folder: Path) -> None:
    (folder / "model_index.json").unlink()
    (folder / "transformer").mkdir()


def other_encoder(folder: Path) -> None:
    edit(folder / "model_index.json", text_encoder=["transformers", "T5EncoderModel"])


def inpainting(folder: Path) -> None:
    tiny_unet(**{**MINI_SHAPED, "in_channels": 9}).save_pretrained(folder / "unet")


def wide_text(folder: Path) -> None:
    tiny_unet(**{**MINI_SHAPED, "cross_attention_dim": 48}).save_pretrained(folder / "unet")


def pickled(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(
        folder / "unet" / "diffusion_pytorch_model.bin"
    )


def no_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def without_index(folder: Path) -> None:
    (folder / "model_index.json").unlink()


def without_vae(folder: Path) -> None:
    edit(folder / "model_index.json", vae=[None, None])


def nameless(folder: Path) -> None:
    edit(folder / "model_index.json", _class_name=None)


def custom_code(folder: Path) -> None:
    edit(folder / "model_index.json", unet=["my_unet", "UNet2DConditionModel"])


def two_autoencoders(folder: Path) -> None:
    edit(folder / "model_index.json", vae=["diffusers", "AutoencoderTiny"])


def projected(folder: Path) -> None:
    edit(folder / "model_index.json", text_encoder=["transformers", "CLIPTextModelWithProjection"])


def endless(folder: Path) -> None:
    edit(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)


def incomplete(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path, metadata={"format": "pt"})


def no_json(folder: Path) -> None:
    (folder / "model_index.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (transformer, r"transformer \(SD3Transformer2DModel\), as SD3, Flux and PixArt do"),
        (transformer_folder, "denoises with a transformer"),
        (other_encoder, "text_encoder of .* is a T5EncoderModel, expected CLIPTextModel"),
        (inpainting, "takes 9 channels and its VAE's latents have 4: an inpainting or editing model"),
        (wide_text, "reads text of width 48 and its text encoder writes 32"),
        (pickled, "diffusion_pytorch_model.bin, a pickle, which is never opened"),
        (no_weights, "vae holds no safetensors weights"),
        (incomplete, "unet lacks conv_in.weight"),
        (no_json, "is not JSON"),
        # What diffusers itself does not load, or not draw with.
        (without_index, "has no model_index.json, without which diffusers loads no pipeline"),
        (without_vae, "model_index.json of .* names no vae"),
        (nameless, "has _class_name null, expected the name of a pipeline"),
        (custom_code, "is a UNet2DConditionModel of my_unet, code that diffusers would import"),
        (two_autoencoders, "AutoencoderKL by its config.json and a AutoencoderTiny by model_index.json"),
        (projected, "text_encoder of .* is a CLIPTextModelWithProjection, expected CLIPTextModel;"),
        (endless, "states no length of prompts .* and its text encoder reads 16; set both alike"),
    ],
)
def test_unusable_folders_are_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(folder)
    one_line(raised.value)
