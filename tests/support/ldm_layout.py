"""Writes a diffusers base as one checkpoint in the original layout of latent diffusion.

Written from the layout itself (input_blocks, middle_block, output_blocks counted through the levels), and in the
other direction than the loader under test, so that a mistake in one is not hidden by the other.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

Tensors = dict[str, Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_ldm_checkpoint(
    path: Path, base: Path, dtype: torch.dtype = torch.float32, **changes: Tensor
) -> Path:
    """One file with the UNet, VAE and text encoder of a diffusers folder; `changes` replace tensors."""
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    vae = AutoencoderKL.from_pretrained(base / "vae")
    text = CLIPTextModel.from_pretrained(base / "text_encoder")
    tensors = {f"model.diffusion_model.{key}": value for key, value in ldm_unet(unet).items()}
    tensors |= {f"first_stage_model.{key}": value for key, value in ldm_vae(vae).items()}
    tensors |= {f"cond_stage_model.transformer.{key}": value for key, value in text.state_dict().items()}
    tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    tensors["betas"] = torch.linspace(0.01, 0.1, 4)
    stored = {key: value.to(dtype).clone().contiguous() for key, value in (tensors | changes).items()}
    save_file(stored, path)
    return path


def ldm_unet(unet: UNet2DConditionModel) -> Tensors:
    """The UNet's weights by their original names."""
    layers = int(unet.config.layers_per_block)
    return {_unet_key(key, layers, unet): value for key, value in unet.state_dict().items()}


def _unet_key(key: str, layers: int, unet: UNet2DConditionModel) -> str:
    module, leaf = key.rsplit(".", 1)
    if module in _ENDS:
        return f"{_ENDS[module]}.{leaf}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", module)
    if match is None:
        middle = re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", module)
        assert middle is not None, key
        if middle[1] == "attentions":
            return f"middle_block.1.{middle[3]}.{leaf}"
        return f"middle_block.{2 * int(middle[2])}.{_RESNET[middle[3]]}.{leaf}"
    side, level, kind, i, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if side == "down":
        number = 1 + level * (layers + 1) + (layers if kind == "downsamplers" else i)
        if kind == "downsamplers":
            return f"input_blocks.{number}.0.op.{leaf}"
        place = f"input_blocks.{number}"
    else:
        number = level * (layers + 1) + (layers if kind == "upsamplers" else i)
        place = f"output_blocks.{number}"
        if kind == "upsamplers":
            has_attention = hasattr(unet.up_blocks[level], "attentions")
            return f"{place}.{2 if has_attention else 1}.conv.{leaf}"
    if kind == "attentions":
        return f"{place}.1.{rest}.{leaf}"
    return f"{place}.0.{_RESNET[rest]}.{leaf}"


def ldm_vae(vae: AutoencoderKL) -> Tensors:
    """The VAE's weights by their original names; its attention was made of 1 x 1 convolutions."""
    levels = len(vae.config.block_out_channels)
    tensors: Tensors = {}
    for key, value in vae.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", name)
        name = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name
        )
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        if "mid_block.attentions.0." in name:
            before, after = name.split("mid_block.attentions.0.")
            module, leaf = after.rsplit(".", 1)
            name = f"{before}mid.attn_1.{_VAE_ATTENTION[module]}.{leaf}"
            if leaf == "weight" and module != "group_norm":
                value = value[:, :, None, None]
        tensors[name] = value
    return tensors
