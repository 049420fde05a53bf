"""Files that people join to a tiny base: autoencoders, in every form that they come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

TAESD_SHAPED: dict[str, Any] = {
    "encoder_block_out_channels": (40, 40, 40),
    "decoder_block_out_channels": (40, 40, 40),
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
}
"""TAESD in small: its factor is the tiny base's 4; 40 channels are enough for 8 bits to touch them."""


def tiny_taesd(seed: int = 3, **changes: Any) -> AutoencoderTiny:
    """Random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderTiny(**{**TAESD_SHAPED, **changes}).eval()


def other_kl(base: Path, seed: int = 4, **changes: Any) -> AutoencoderKL:
    """Random weights in the shape of a base's own VAE."""
    config = AutoencoderKL.load_config(base / "vae")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderKL.from_config({**config, "scaling_factor": 0.4, **changes}).eval()


UNET_LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.1.attentions.1.proj_in",
    "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v",
)
CONVOLUTIONS = (
    "down_blocks.0.resnets.1.conv1",
    "up_blocks.0.upsamplers.0.conv",
    "up_blocks.0.resnets.0.conv_shortcut",
)
"""What a LoCon has beside the attentions."""
TEXT_LAYERS = tuple(
    f"text_model.encoder.layers.{layer}"
    for layer in ("0.self_attn.q_proj", "0.self_attn.out_proj", "1.mlp.fc1")
)

Matrices = dict[str, tuple[torch.Tensor, torch.Tensor, float]]


def lora_matrices(
    model: torch.nn.Module, layers: Sequence[str], seed: int = 0, scale: float = 0.4, rank: int = 4
) -> Matrices:
    """Of each layer: A [r, in, k, k], B [out, r, 1, 1] and alpha, half the rank."""
    generator = torch.Generator().manual_seed(seed)
    found: Matrices = {}
    for name in layers:
        weight = model.get_submodule(name).weight
        kernel = weight.shape[2:]
        down = torch.randn(rank, weight.shape[1], *kernel, generator=generator)
        up = scale * torch.randn(weight.shape[0], rank, *(1 for _ in kernel), generator=generator)
        found[name] = (down / down[0].numel() ** 0.5, up, rank / 2)
    return found


def as_kohya(unet: Matrices, text: Matrices) -> dict[str, torch.Tensor]:
    """The keys of sd-scripts, with alphas."""
    tensors = {}
    for start, matrices in (("lora_unet_", unet), ("lora_te_", text)):
        for name, (down, up, alpha) in matrices.items():
            key = start + name.replace(".", "_")
            tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def as_peft(unet: Matrices, text: Matrices) -> dict[str, torch.Tensor]:
    """The keys of diffusers' training scripts: alphas are the ranks."""
    tensors = {}
    for start, matrices in (("unet.", unet), ("text_encoder.", text)):
        for name, (down, up, _) in matrices.items():
            tensors |= {f"{start}{name}.lora_A.weight": down, f"{start}{name}.lora_B.weight": up}
    return tensors
