"""Known architectures with random weights, for people who measure a device before they have weights.

Source: the config.json files of runwayml/stable-diffusion-v1-5 and stabilityai/stable-diffusion-2-1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from dreamcache.models.base import Base

_SD_UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}

UNET_CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {**_SD_UNET, "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd21": {
        **_SD_UNET,
        "sample_size": 96,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
}

_TEXT_CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
    },
    "sd21": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
}

_PREDICTION_TYPES = {"sd15": "epsilon", "sd21": "v_prediction"}

_VAE_CONFIG: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}

_VOCABULARY = 49408
_TEXT_LENGTH = 77


def random_base(architecture: str, folder: Path, seed: int = 0) -> Base:
    """A base of a known architecture with seeded random weights.

    Args:
        architecture: a key of `UNET_CONFIGS`.
        folder: an empty folder; the tokenizer is written into it.
        seed: of the weights.

    Raises:
        ValueError: unknown architecture.
    """
    if architecture not in UNET_CONFIGS:
        raise ValueError(f"architecture is {architecture!r}; choose one of {', '.join(UNET_CONFIGS)}")
    tokenizer = _byte_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**UNET_CONFIGS[architecture])
        vae = AutoencoderKL(**_VAE_CONFIG)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=_VOCABULARY,
                max_position_embeddings=_TEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **_TEXT_CONFIGS[architecture],
            )
        )
    for model in (unet, vae, text_encoder):
        model.eval().requires_grad_(False)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=_PREDICTION_TYPES[architecture],
    )
    return Base(vae, text_encoder, tokenizer, unet, scheduler, None)


def _byte_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of the true size that knows bytes alone: random weights know no words."""
    folder.mkdir(parents=True)
    letters = list(bytes_to_unicode().values())
    pieces = letters + [f"{letter}</w>" for letter in letters]
    pieces += [f"<|unused{i}|>" for i in range(_VOCABULARY - 2 - len(pieces))]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=_TEXT_LENGTH
    )
