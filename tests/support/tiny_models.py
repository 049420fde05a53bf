"""Tiny Stable Diffusion models with random weights in the true formats, for every room's tests.

Nothing is downloaded: the tokenizer's vocabulary is made here. A complete folder takes about a second.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPTokenizerFast,
)
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from dreamcache.models.checkpoint import save_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig

TEXT_LENGTH = 16
TEXT_WIDTH = 32

SD15_SHAPED: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32, 48, 48),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
"""SD 1.5 in small: the same blocks, so the same five sites."""

MINI_SHAPED: dict[str, Any] = {
    **SD15_SHAPED,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "attention_head_dim": 2,
}
"""Two levels with attention: sites in the middle and at both resolutions; the fastest complete one."""


POOLED = 20
SDXL_SHAPED: dict[str, Any] = {
    **SD15_SHAPED,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": POOLED + 6 * 8,
    "cross_attention_dim": TEXT_WIDTH + 24,
}
"""SDXL with a level less: no attention at the top, deep transformers below, linear projections."""


def tiny_unet(seed: int = 0, **changes: Any) -> UNet2DConditionModel:
    """A random SD 1.5-shaped UNet in evaluation mode; `changes` replace config entries."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(**{**SD15_SHAPED, **changes}).eval().requires_grad_(False)


def randomise_adapters(conditioned: ConditionedUNet, seed: int = 1, scale: float = 0.3) -> ConditionedUNet:
    """Move every adapter off its start, where it changes nothing, so that a test can see it work."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in conditioned.adapter_parameters():
            fan_in = parameter.shape[-1] if parameter.ndim == 2 else 1
            step = torch.randn(parameter.shape, generator=generator) * scale
            parameter.add_(step / fan_in**0.5 if parameter.ndim == 2 else step * 0.1)
    return conditioned


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write and load a CLIP tokenizer: the 256 bytes, with and without end of word, and two merges."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    merges = ["r o", "a t</w>"]
    pieces = letters + [f"{letter}</w>" for letter in letters] + [pair.replace(" ", "") for pair in merges]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TEXT_LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_scheduler(folder: Path, scheduler: SchedulerMixin) -> None:
    """Give a base another scheduler, in both places where its class is named."""
    scheduler.save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    record = json.loads(index.read_text(encoding="utf-8"))
    record["scheduler"] = ["diffusers", type(scheduler).__name__]
    index.write_text(json.dumps(record), encoding="utf-8")


def save_as_transformers_5(folder: Path) -> None:
    """Leave of a tokenizer's folder what transformers 5 writes: tokenizer.json and a config of its own entries."""
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    for path in folder.iterdir():
        path.unlink()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    names = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    config = {
        "backend": "tokenizers",
        "extra_special_tokens": tokenizer.additional_special_tokens,
        "is_local": True,
        "model_max_length": tokenizer.model_max_length,
        "tokenizer_class": "CLIPTokenizer",
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def add_tokens(base: Path, *tokens: str) -> None:
    """Give a base tokens of its own with random embeddings, as a textual inversion does."""
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
    assert tokenizer.add_tokens(list(tokens)) == len(tokens)
    text_encoder.resize_token_embeddings(len(tokenizer))
    tokenizer.save_pretrained(base / "tokenizer")
    text_encoder.save_pretrained(base / "text_encoder", safe_serialization=True)


def _text_config(tokenizer: CLIPTokenizer, width: int = TEXT_WIDTH, **changes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        **changes,
    )


def _tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.9,
    )


def write_tiny_sdxl(folder: Path, seed: int = 0, force_zeros_for_empty_prompt: bool = True) -> Path:
    """Write a complete diffusers SDXL folder: 32 px pictures, two text encoders, of which the second pads with "!"."""
    tokenizers = [tiny_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    tokenizers[1].pad_token = "!"
    tokenizers[1].save_pretrained(folder / "tokenizer_2")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = CLIPTextModel(_text_config(tokenizers[0], hidden_act="quick_gelu"))
        second = CLIPTextModelWithProjection(
            _text_config(tokenizers[1], width=24, hidden_act="gelu", projection_dim=POOLED)
        )
        vae = _tiny_vae()
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoder,
        text_encoder_2=second,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=tiny_unet(seed + 1, **SDXL_SHAPED),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_base(
    folder: Path, seed: int = 0, prediction_type: str = "epsilon", unet: dict[str, Any] | None = None
) -> Path:
    """Write a complete diffusers Stable Diffusion folder: 32 px pictures, 8 x 8 x 4 latents.

    Args:
        folder: made if absent.
        seed: of every weight.
        prediction_type: ``epsilon`` or ``v_prediction``.
        unet: UNet config; `MINI_SHAPED` by default.
    """
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(_text_config(tokenizer))
        vae = _tiny_vae()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=tiny_unet(seed + 1, **(MINI_SHAPED if unet is None else unet)),
        scheduler=DDIMScheduler(
            num_train_timesteps=1000,
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction_type,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_adapters(
    path: Path, base: Path, seed: int = 1, config: AdapterConfig | None = None, scale: float = 0.3
) -> Path:
    """Write randomised adapters for the UNet of a folder that `write_tiny_base` made."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet", use_safetensors=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conditioned = ConditionedUNet(unet, config)
    save_adapters(path, randomise_adapters(conditioned, seed, scale))
    return path
