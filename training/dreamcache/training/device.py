"""Where the miniature's stages run, and in which precision."""

from __future__ import annotations

import os
import platform
import shutil

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


def training_device() -> torch.device:
    """A CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def hardware() -> str:
    """The GPU's name, or how many CPU cores of which kind there are."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where products of it are faster than of float32: on GPUs, and on CPUs that have instructions for it.

    Elsewhere the same stage takes ten times as long in bfloat16.
    """
    if device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def fast_in_bf16(device: torch.device) -> bool:
    """Whether `training_dtype` is bfloat16."""
    return training_dtype(device) is torch.bfloat16


def autocast(device: torch.device) -> torch.autocast:
    """Products in `training_dtype`, where weights stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_in_bf16(device))


def compile_unet(unet: UNet2DConditionModel) -> None:
    """Let a UNet be compiled with its first run, where there is a compiler for it: whole on a GPU; on a CPU its
    transformer blocks one by one.

    On a CPU with AMX a step forwards and backwards takes 0.84 of its time so (0.5 s a block to compile); the UNet
    compiled as a whole gained nothing there.
    """
    if next(unet.parameters()).device.type != "cpu":
        unet.compile(dynamic=False)
    elif any(map(shutil.which, ("g++", "c++", "clang++"))):
        for module in unet.modules():
            if isinstance(module, BasicTransformerBlock):
                module.compile(dynamic=False)
