"""Altered bases whose parts are made anew: UNets, VAEs and text encoders of other configs, with weights that fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from altered_bases import AlteredBase, scheduler
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

UNETS_REFUSED: tuple[dict[str, Any], ...] = (
    {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    {"addition_embed_type": "image", "encoder_hid_dim": 32},
    {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 80},
    {"class_embed_type": "timestep"},
    {"class_embed_type": "identity"},
    {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 8},
    {"class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": 8},
    {"num_class_embeds": 5},
    {"class_embeddings_concat": True},
    {"encoder_hid_dim": 32, "encoder_hid_dim_type": "text_image_proj", "cross_attention_dim": 24},
    {"encoder_hid_dim": 32, "encoder_hid_dim_type": "image_proj", "cross_attention_dim": 32},
    {"dual_cross_attention": True},
    {"only_cross_attention": True},
    {"only_cross_attention": [False, True]},
    {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"},
    {"resnet_time_scale_shift": "ada_group"},
    {"num_attention_heads": 4},
    {"attention_head_dim": 3},
    {"time_embedding_type": "sinusoidal"},
    {"attention_type": "gated"},
    {"down_block_types": ["AttnDownBlock2D", "CrossAttnDownBlock2D"]},
    {"down_block_types": ["SimpleCrossAttnDownBlock2D", "CrossAttnDownBlock2D"]},
    {"down_block_types": ["ResnetDownsampleBlock2D", "CrossAttnDownBlock2D"]},
    {"up_block_types": ["CrossAttnUpBlock2D", "AttnUpBlock2D"]},
    {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "mid_block_type": "UNetMidBlock2D"},
    {"in_channels": 9},
    {"out_channels": 8},
    {"act_fn": "softmax"},
    {"norm_num_groups": None},
)  # fmt: skip
"""Entries of a UNet's config, each with weights that fit where there are any."""

UNETS_READ: tuple[dict[str, Any], ...] = (
    {"encoder_hid_dim": 32, "cross_attention_dim": 24, "only_cross_attention": [False, False],
     "upcast_attention": True, "act_fn": "mish", "norm_eps": 1e-3, "conv_in_kernel": 5, "conv_out_kernel": 1,
     "flip_sin_to_cos": False, "freq_shift": 1, "mid_block_scale_factor": 2.0, "dropout": 0.1},
    {"resnet_time_scale_shift": "scale_shift", "resnet_skip_time_act": True, "resnet_out_scale_factor": 2.0,
     "act_fn": "gelu", "mid_block_type": "UNetMidBlock2D", "attention_head_dim": 16, "time_embedding_dim": 48},
    {"timestep_post_act": "silu", "time_embedding_act_fn": "silu", "norm_num_groups": 4, "act_fn": "relu",
     "attention_head_dim": [2, 4], "transformer_layers_per_block": [1, 2], "mid_block_only_cross_attention": True,
     "cross_attention_norm": "layer_norm"},
    {"transformer_layers_per_block": [[1, 2], [2, 1]], "reverse_transformer_layers_per_block": [[1, 2, 1], [2, 1, 1]],
     "use_linear_projection": True, "layers_per_block": 2},
    {"time_embedding_type": "fourier", "conv_in_kernel": 1, "layers_per_block": [1, 2],
     "cross_attention_norm": "group_norm"},
    {"block_out_channels": [16, 32, 32], "down_block_types": ["CrossAttnDownBlock2D"] * 3,
     "up_block_types": ["CrossAttnUpBlock2D"] * 3, "mid_block_type": None, "layers_per_block": 1},
    {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
     "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]},
)  # fmt: skip
"""Several at once: where the picture is diffusers', each of them is read right."""

VAES_REFUSED: tuple[dict[str, Any], ...] = (
    {"latent_channels": 8},
    {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
    {"in_channels": 4},
    {"out_channels": 4},
    {"shift_factor": 0.5},
    {"act_fn": "softmax"},
)

VAES_READ: tuple[dict[str, Any], ...] = (
    {"down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
     "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]},
    {"use_quant_conv": False, "use_post_quant_conv": False, "mid_block_add_attention": False, "act_fn": "mish",
     "norm_num_groups": 8, "layers_per_block": 2, "scaling_factor": 1.0, "shift_factor": 0.0, "sample_size": 64},
    {"use_quant_conv": False, "block_out_channels": [8, 16], "down_block_types": ["DownEncoderBlock2D"] * 2,
     "up_block_types": ["UpDecoderBlock2D"] * 2},
)  # fmt: skip

TEXTS_REFUSED: tuple[dict[str, Any], ...] = (
    {"hidden_act": "softmax2"},
    {"hidden_size": 48},
    {"max_position_embeddings": 20},
    {"vocab_size": 500},
)

TEXTS_READ: tuple[dict[str, Any], ...] = (
    {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-3, "num_attention_heads": 2, "num_hidden_layers": 3,
     "attention_dropout": 0.1, "eos_token_id": 2, "vocab_size": 600},
)  # fmt: skip


def remade_bases() -> Iterator[AlteredBase]:
    """All of them."""
    for part, refused, read in (
        ("unet", UNETS_REFUSED, UNETS_READ),
        ("vae", VAES_REFUSED, VAES_READ),
        ("text_encoder", TEXTS_REFUSED, TEXTS_READ),
    ):
        yield from (_remade(part, changes, refused=True) for changes in refused)
        yield from (_remade(part, changes) for changes in read)
    yield AlteredBase(
        "text encoder with a projection, as its config says",
        lambda folder: _projected(folder),
        own_graphs=True,
    )
    yield AlteredBase(
        "text encoder with a projection, as model_index.json says",
        lambda folder: _projected(folder, stated="CLIPTextModelWithProjection"),
    )
    yield from (
        _distilled("sd", kind) for kind in ("LCMScheduler", "EulerDiscreteScheduler", "DDIMScheduler")
    )
    yield from (_distilled("sdxl", kind) for kind in ("LCMScheduler", "EulerDiscreteScheduler"))
    # SSD-1B and Vega leave layers out of SDXL.
    yield _remade("unet", {
        "layers_per_block": 2, "transformer_layers_per_block": [1, 2], "mid_block_type": "UNetMidBlock2D",
        "reverse_transformer_layers_per_block": [[3, 1, 2], 1], "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 44}, "sdxl")  # fmt: skip
    yield _remade("unet", {"addition_embed_type": None}, "sdxl", refused=True)
    yield _remade("unet", {"addition_embed_type": "text_image", "image_embed_dim": 8}, "sdxl", refused=True)
    yield _remade("text_encoder_2", {"hidden_act": "quick_gelu", "num_hidden_layers": 3}, "sdxl")
    yield _remade("text_encoder_2", {"projection_dim": 28}, "sdxl", refused=True)


def _remade(
    part: str, changes: dict[str, Any], kind: Literal["sd", "sdxl"] = "sd", *, refused: bool = False
) -> AlteredBase:
    words = ", ".join(f"{name} {json.dumps(value)}" for name, value in changes.items())
    start = "SDXL, " if kind == "sdxl" else ""
    return AlteredBase(
        f"{start}{part} of {words}",
        lambda folder: remake(folder / part, changes),
        kind,
        own_graphs=not refused,
    )


def remake(part: Path, changes: dict[str, Any]) -> None:
    """A part's config with `changes`, and weights that fit; where no class takes that, the config alone."""
    path = part / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            _made(part.name, config).save_pretrained(part, safe_serialization=True)
    except (ValueError, TypeError, AttributeError, LookupError):  # the config is then refused as it is
        pass
    # What the class leaves out of its own config.
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | changes), encoding="utf-8")


def _made(part: str, config: dict[str, Any]) -> Any:
    if part == "unet":
        return UNet2DConditionModel.from_config(config)
    if part == "vae":
        return AutoencoderKL.from_config(config)
    kind = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
    return kind(CLIPTextConfig(**config))


def _projected(folder: Path, stated: str | None = None) -> None:
    part = folder / "text_encoder"
    config = json.loads((part / "config.json").read_text(encoding="utf-8"))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        CLIPTextModelWithProjection(CLIPTextConfig(**{**config, "projection_dim": 32})).save_pretrained(part)
    if stated is not None:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        index["text_encoder"] = ["transformers", stated]
        (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def _distilled(base: Literal["sd", "sdxl"], kind: str) -> AlteredBase:
    """A UNet that takes a guidance scale, with a scheduler."""
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

    def alter(folder: Path) -> None:
        remake(folder / "unet", {"time_cond_proj_dim": 16})
        scheduler(kind, **config, clip_sample=False).alter(folder)

    start = "SDXL, " if base == "sdxl" else ""
    return AlteredBase(
        f"{start}a UNet that takes a guidance scale, {kind}", alter, base, own_graphs=kind == "LCMScheduler"
    )
