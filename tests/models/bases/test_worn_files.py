"""What lies in the place of weights and configs, by other tools and broken downloads: read, or named with its mend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edited_files import edit
from joined_files import other_kl
from ldm_layout import write_ldm_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import MINI_SHAPED, add_tokens, tiny_unet, write_tiny_sdxl
from transformers import CLIPTokenizer

from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.parts.together import check_together
from dreamcache.models.errors import AdapterError


def test_a_text_encoder_as_transformers_5_names_it(tiny_base: Path, folder: Path) -> None:
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert load_base(folder).encode_text(["a rat"]).equal(load_base(tiny_base).encode_text(["a rat"]))
    save_file({f"te.{name}": tensor for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"lacks text_model.*, and has te.emb.* instead; the base is"):
        load_base(folder)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1",
            r"\(a Git LFS pointer\); fetch the weights with git lfs pull",
        ),
        (b"GGUF\x03\0\0\0", r"\(GGUF, packed by a quantiser\); give the weights in 16 bits"),
        (b"PK\x03\x04", r"\(a pickle by another name\); where you trust it, convert it: python"),
        (b"<html>", r"\(a web page\); download it again"),
        (b"\0" * 9, r"is not a safetensors checkpoint \(.*\); download it again"),
    ],
)
def test_what_is_in_the_place_of_weights_is_named(tmp_path: Path, start: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "of"),
    [("model.onnx", "ONNX Runtime"), ("openvino_model.xml", "OpenVINO"), ("model.msgpack", "Flax")],
)
def test_weights_for_other_programs_are_named(folder: Path, file: str, of: str) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / file)
    with pytest.raises(
        AdapterError, match=f"holds {file}, for {of}, and no safetensors weights; give the base"
    ):
        load_base(folder)


@pytest.mark.parametrize(
    ("unet", "vae", "message"),
    [
        (
            {"out_channels": 8},
            {},
            "the UNet of .* predicts 8 channels and takes 4: one that learned a variance",
        ),
        ({}, {"out_channels": 4}, r"pictures of 4 channels \(out_channels\), expected 3; give another VAE"),
        ({}, {"in_channels": 1}, r"pictures of 1 channels \(in_channels\), expected 3"),
    ],
)
def test_channels_that_no_picture_has(
    tiny_base: Path, unet: dict[str, int], vae: dict[str, int], message: str
) -> None:
    parts = load_base(tiny_base).parts
    changed = parts._replace(unet=tiny_unet(**MINI_SHAPED | unet), vae=other_kl(tiny_base, **vae))
    check_together("b", parts)
    with pytest.raises(AdapterError, match=message):
        check_together("b", changed)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("vae/config.json", {"scaling_factor": "0.18"}, 'scaling_factor is "0.18", expected a number'),
        ("vae/config.json", {"block_out_channels": [8, 16]}, "vae cannot be read .list index out of range"),
        (
            "model_index.json",
            {"tokenizer": ["transformers", "T5Tokenizer"]},
            "tokenizer of .* is a T5Tokenizer",
        ),
        (
            "tokenizer/tokenizer_config.json",
            {"tokenizer_class": "MultiTokenCLIPTokenizer"},
            "is a MultiToken",
        ),
        ("text_encoder/config.json", {"eos_token_id": None}, "eos_token_id is null, expected a whole number"),
        ("text_encoder/config.json", {"eos_token_id": [515]}, r"eos_token_id is \[515\], expected a whole"),
        ("text_encoder/config.json", {"num_hidden_layers": True}, "num_hidden_layers is true, expected a"),
        (
            "text_encoder/config.json",
            {"layer_norm_eps": "1e-5"},
            'layer_norm_eps is "1e-5", expected a number',
        ),
        ("text_encoder/config.json", {"architectures": 3}, "is a 3, expected CLIPTextModel"),
        ("unet/config.json", {"_class_name": ["UNet2DConditionModel"]}, r"is a \[.*, expected UNet2DCond"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 16.0}, "has model_max_length 16.0"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "16"}, 'has model_max_length "16"'),
        (
            "scheduler/scheduler_config.json",
            {"clip_sample": "false"},
            "has clip_sample 'false', expected true",
        ),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": "false"}, "expected true or false"),
        ("scheduler/scheduler_config.json", {"steps_offset": 1.0}, "has steps_offset 1.0, expected a whole"),
        ("scheduler/scheduler_config.json", {"_class_name": None}, "has _class_name null"),
    ],
)
def test_entries_of_another_type(folder: Path, file: str, changes: dict[str, Any], message: str) -> None:
    record = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(record | changes), encoding="utf-8")
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(folder)
    assert "\n" not in str(raised.value)


def test_added_tokens_are_read_in_their_own_spelling(folder: Path) -> None:
    add_tokens(folder, "<My-Toy>")
    theirs = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ours = load_base(folder).tokenizer
    for prompt in ("a <My-Toy>", "a <my-toy>", "A<MY-TOY>s"):
        assert ours(prompt).input_ids == theirs(prompt).input_ids
    assert ours("<My-Toy>").input_ids[1] == len(ours) - 1
    whole = folder / "tokenizer" / "tokenizer.json"
    ours.save_pretrained(folder / "tokenizer")
    record = json.loads(whole.read_text(encoding="utf-8"))
    record["model"]["dropout"] = 0.1
    whole.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(AdapterError, match=r"splits words at random \(dropout 0.1"):
        load_base(folder)


def test_a_lora_beside_a_text_encoders_weights_is_named(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match=r"holds a LoRA beside its weights .*; remove it, or merge it"):
        load_base(folder)


@pytest.mark.parametrize("file", ["unet/config.json", "text_encoder/config.json"])
def test_a_config_that_is_absent_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{file} is absent; download the base again"):
        load_base(folder)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        # diffusers' trainers leave the state of averaged weights there.
        ("unet/config.json", {"decay": 0.9999, "optimization_step": 9}, None),
        ("vae/config.json", {"spare": 1}, None),
        ("unet/config.json", {"act_fn": "softmax"}, "unet of .* does not fit its config .activation"),
        ("unet/config.json", {"class_embed_type": "timestep"}, "label_emb.* is not known"),
        ("unet/config.json", {"_class_name": "UNet2DModel"}, "is a UNet2DModel .a UNet without text"),
        ("unet/config.json", {"quantization_config": {}}, "packed by a quantiser"),
        ("vae/config.json", {"block_out_channels": [8]}, "vae of .* does not fit its config"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "is of a AutoencoderTiny"),
        ("vae/config.json", {"scaling_factor": None}, "with scaling_factor None, expected"),
        (
            "text_encoder/config.json",
            {"hidden_act": "x"},
            "text encoder of .* does not fit its config .'x' is not",
        ),
        ("text_encoder/config.json", {"eos_token_id": [515]}, r"eos_token_id is \[515\]"),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}, "is a T5EncoderModel"),
    ],
)
def test_configs_lent_to_a_checkpoint_are_held_to_the_same(
    tiny_base: Path, folder: Path, tmp_path: Path, file: str, changes: dict[str, Any], message: str | None
) -> None:
    checkpoint = write_ldm_checkpoint(tmp_path / "model.safetensors", tiny_base)
    edit(folder / file, **changes)
    if message is None:
        lent, own = load_base(checkpoint, config=folder), load_base(tiny_base)
        assert all(
            torch.equal(tensor, lent.unet.state_dict()[key]) for key, tensor in own.unet.state_dict().items()
        )
        return
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(checkpoint, config=folder)
    assert "\n" not in str(raised.value)


def test_a_width_that_sdxl_needs_is_named(tmp_path: Path) -> None:
    base = write_tiny_sdxl(tmp_path / "sdxl")
    edit(base / "unet/config.json", addition_time_embed_dim=None)
    with pytest.raises(AdapterError, match="its addition_time_embed_dim is null, expected a whole number"):
        load_base(base)
