"""Where the miniature's stages run, and in which precision."""

from __future__ import annotations

import shutil

import torch
from torch import nn


def training_device() -> torch.device:
    """A CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where products of it are faster than of float32: on GPUs, and on CPUs that have instructions for it.

    Elsewhere the same stage takes ten times as long in bfloat16.
    """
    if device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device) -> torch.autocast:
    """Products in `training_dtype`, where weights stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=training_dtype(device) is torch.bfloat16)


def compiled(module: nn.Module) -> nn.Module:
    """The module with the same weights and faster, where there is a compiler for it; else the module itself."""
    if next(module.parameters()).device.type == "cpu" and not any(
        map(shutil.which, ("g++", "c++", "clang++"))
    ):
        return module
    fast: nn.Module = torch.compile(module)  # type: ignore[assignment]  # stated as a callable
    return fast
