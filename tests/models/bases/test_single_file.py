"""Single checkpoints in the original layout: every weight arrives where it belongs, offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ldm_layout import write_ldm_checkpoint
from safetensors.torch import load_file, save_file
from tiny_models import MINI_SHAPED, SD15_SHAPED, write_tiny_base
from transformers import CLIPTextConfig, CLIPTextModel

from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.original import single_file
from dreamcache.models.bases.original.single_file import recognise
from dreamcache.models.bases.original.stored import check_layout
from dreamcache.models.checkpoint import base_fingerprint
from dreamcache.models.errors import AdapterError

CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
TEXT_KEY = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was asked"))


@pytest.fixture(scope="module", name="checkpoint")
def _checkpoint(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ldm_checkpoint(tmp_path_factory.mktemp("ldm") / "model.safetensors", tiny_base)


def assert_same_weights(ours: Base, theirs: Base) -> None:
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(theirs, part).state_dict()
        received = getattr(ours, part).state_dict()
        assert received.keys() == expected.keys()
        assert all(torch.equal(received[name], expected[name]) for name in expected), part


@pytest.mark.parametrize("shape", [MINI_SHAPED, SD15_SHAPED, {**SD15_SHAPED, "use_linear_projection": True}])
def test_every_weight_arrives(tmp_path: Path, shape: dict[str, object]) -> None:
    folder = write_tiny_base(tmp_path / "base", unet=shape)
    checkpoint = write_ldm_checkpoint(tmp_path / "model.safetensors", folder)
    ours, theirs = load_base(checkpoint, config=folder), load_base(folder)
    assert_same_weights(ours, theirs)
    assert base_fingerprint(ours.unet) == base_fingerprint(theirs.unet)
    assert ours.scheduler.config.prediction_type == theirs.scheduler.config.prediction_type
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    latent, text = torch.randn(1, 4, 8, 8), theirs.encode_text(["a robot"])
    with torch.no_grad():
        assert torch.equal(ours.unet(latent, 7, text).sample, theirs.unet(latent, 7, text).sample)
    assert torch.equal(ours.decode_latents(latent), theirs.decode_latents(latent))
    assert torch.equal(ours.encode_text(["a robot"]), text)


def test_half_precision_is_read_into_float32(tmp_path: Path, tiny_base: Path) -> None:
    checkpoint = write_ldm_checkpoint(tmp_path / "half.safetensors", tiny_base, torch.float16)
    loaded = load_base(checkpoint, config=tiny_base)
    assert {parameter.dtype for parameter in loaded.unet.parameters()} == {torch.float32}
    expected = load_base(tiny_base).unet.conv_in.weight
    assert torch.equal(loaded.unet.conv_in.weight, expected.half().float())
    assert not torch.equal(loaded.unet.conv_in.weight, expected)


def test_an_open_clip_text_encoder(tmp_path: Path) -> None:
    """Stable Diffusion 2 keeps its text encoder in OpenCLIP's names, with one projection for q, k and v."""
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    expected = CLIPTextModel(config).eval()
    tensors: dict[str, torch.Tensor] = {}
    prefix = "cond_stage_model.model."
    for key, value in expected.state_dict().items():
        name = key.removeprefix("text_model.")
        if name.startswith("embeddings.token"):
            tensors[f"{prefix}token_embedding.weight"] = value
        elif name.startswith("embeddings.position"):
            tensors[f"{prefix}positional_embedding"] = value
        elif name.startswith("final_layer_norm"):
            tensors[f"{prefix}ln_final.{name.rsplit('.', 1)[1]}"] = value
    for i, layer in enumerate(expected.text_model.encoder.layers):
        place = f"{prefix}transformer.resblocks.{i}"
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        for leaf in ("weight", "bias"):
            tensors[f"{place}.attn.in_proj_{leaf}"] = torch.cat([getattr(one, leaf) for one in projections])
            for name, module in (
                ("attn.out_proj", attention.out_proj),
                ("ln_1", layer.layer_norm1),
                ("ln_2", layer.layer_norm2),
                ("mlp.c_fc", mlp.fc1),
                ("mlp.c_proj", mlp.fc2),
            ):
                tensors[f"{place}.{name}.{leaf}"] = getattr(module, leaf)
    tensors[f"{prefix}text_projection"] = torch.randn(32, 32)
    # Stable Diffusion 2 leaves its last layer.
    tensors[f"{prefix}transformer.resblocks.2.attn.in_proj_weight"] = torch.zeros(96, 32)
    tensors[f"{prefix}transformer.resblocks.2.attn.out_proj.weight"] = torch.zeros(32, 32)
    loaded = single_file._text_encoder(tmp_path / "x", config, tensors).eval()
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids)[0], expected(ids)[0])
        tensors[f"{prefix}transformer.resblocks.0.attn.in_proj_weight"].mul_(1.1)
        other = single_file._text_encoder(tmp_path / "x", config, tensors)
        assert not torch.equal(other(ids)[0], expected(ids)[0])
    with pytest.raises(AdapterError, match=r"reads: cond_stage_model.model.spare;"):
        single_file._text_encoder(tmp_path / "x", config, tensors | {f"{prefix}spare": torch.zeros(1)})


def test_weights_that_change_no_picture_are_left_aside(
    checkpoint: Path, tiny_base: Path, tmp_path: Path
) -> None:
    idle = (
        "first_stage_model.loss.discriminator.main.0.weight",
        "cond_stage_model.logit_scale",
        "cond_stage_model.transformer.vision_model.post_layernorm.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.2.mlp.fc1.bias",
        "control_model.zero_convs.0.0.weight",
    )
    save_file(load_file(checkpoint) | {name: torch.zeros(1) for name in idle}, tmp_path / "m.safetensors")
    assert_same_weights(load_base(tmp_path / "m.safetensors", config=tiny_base), load_base(tiny_base))


def test_an_unknown_architecture_asks_for_a_config(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"text width 32\); give --base-config"):
        load_base(checkpoint)
    with pytest.raises(
        AdapterError, match="'sd9' is neither a folder nor a known architecture; give one of sd15, sd21"
    ):
        load_base(checkpoint, config="sd9")
    with pytest.raises(AdapterError, match=r"does not fit its config: .* give --base-config"):
        load_base(checkpoint, config=write_tiny_base(tmp_path / "wide", unet=WIDE))


WIDE = {**MINI_SHAPED, "block_out_channels": (24, 32)}


def test_known_widths_are_recognised() -> None:
    assert recognise(Path("m"), {TEXT_KEY: [320, 768]}) == "sd15"
    with pytest.raises(AdapterError, match=r"give --base-config sd21 .*, sd21-base"):
        recognise(Path("m"), {TEXT_KEY: [320, 1024]})


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if key.startswith(name)]:
            del tensors[key]

    return damage


def more(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.zeros(1)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            more("model.diffusion_model.spare"),
            "the unet of .* that nothing reads: model.diffusion_model.spare;",
        ),
        (more("first_stage_model.decoder.spare"), "the vae of .* reads: first_stage_model.decoder.spare;"),
        (more("cond_stage_model.transformer.text_model.spare"), r"the text encoder of .* reads: cond_stage"),
        (drop("model.diffusion_model.out.2.weight"), "the unet of .* lacks conv_out.weight; the base is inc"),
        (drop("first_stage_model."), "the vae of .* lacks .* and [0-9]+ more; .*, or give --vae$"),
        (drop("cond_stage_model."), "the text encoder of .* lacks"),
        (drop("model.diffusion_model.input_blocks.0"), "holds no UNet in the original layout"),
    ],
)
def test_incomplete_checkpoints_are_named(
    checkpoint: Path,
    tiny_base: Path,
    tmp_path: Path,
    damage: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    tensors = load_file(checkpoint)
    damage(tensors)
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(AdapterError, match=message) as raised:
        load_base(tmp_path / "m.safetensors", config=tiny_base)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"model.diffusion_model.joint_blocks.0.x": [1]}, "denoises with a transformer"),
        ({"double_blocks.0.img_attn.proj.weight": [1]}, "denoises with a transformer"),
        (
            {CONV_IN: [320, 4, 3, 3], "conditioner.embedders.1.model.x": [1]},
            "two text encoders, as SDXL does",
        ),
        ({CONV_IN: [320, 9, 3, 3]}, "takes 9 channels: an inpainting or editing model"),
        ({"down_blocks.0.resnets.0.conv1.weight": [1]}, "one part of a diffusers folder"),
    ],
)
def test_other_kinds_of_checkpoints_are_named(shapes: dict[str, list[int]], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        check_layout(Path("m.safetensors"), shapes)
    check_layout(Path("m.safetensors"), {CONV_IN: [320, 4, 3, 3]})


def test_pickles_and_broken_files_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, pickled)
    with pytest.raises(AdapterError, match=r"model.ckpt is a pickle, .* convert it: python -c") as raised:
        load_base(pickled)
    assert "\n" not in str(raised.value)
    truncated = tmp_path / "short.safetensors"
    truncated.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(AdapterError, match="not a safetensors checkpoint"):
        load_base(truncated)
    with pytest.raises(AdapterError, match="leave the variant out, it is for folders"):
        load_base(checkpoint, variant="fp16")
    with pytest.raises(FileNotFoundError, match="no base at"):
        load_base(tmp_path / "absent.safetensors")
