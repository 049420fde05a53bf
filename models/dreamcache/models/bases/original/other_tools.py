"""Checkpoints as other tools write them: averaged copies, scaled weights multiplied out, keys that nothing reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dreamcache.models.errors import AdapterError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "cond_stage_model."
TEXT = "cond_stage_model.transformer."

# What ComfyUI calls the factor of a weight in 8 bits, in its older and its newer files.
_SCALES = (".scale_weight", ".weight_scale")
_NO_WEIGHTS = (".scale_input", ".input_scale", ".comfy_quant")


def is_weight(name: str) -> bool:
    """Whether a key is read: not an EMA copy of another, and not a note on how to multiply in 8 bits."""
    return not name.startswith("model_ema.") and not name.endswith(_NO_WEIGHTS) and "scaled_fp8" not in name


def averaged_copy(path: object, name: str, stored: Iterable[str]) -> str:
    """The averaged copy (EMA) of a UNet's weight: its key without dots.

    Raises:
        AdapterError: there is none.
    """
    copy = f"model_ema.{name.removeprefix('model.').replace('.', '')}"
    if copy not in stored:
        raise AdapterError(f"{path} holds no averaged copy of {name} ({copy} is absent); leave --ema out")
    return copy


def is_scale(name: str) -> bool:
    """Whether a key holds the factor of another key's weight."""
    return name.endswith(_SCALES)


def multiplied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in float32 times their factors, which are then gone; the rest as it is."""
    kept = {name: tensor for name, tensor in tensors.items() if not is_scale(name)}
    for name in filter(is_scale, tensors):
        weight = f"{name.rsplit('.', 1)[0]}.weight"
        if weight in kept:
            scale = tensors[name].to(torch.float32)
            # One factor for all, or one for each output.
            shape = (-1, *(1,) * (kept[weight].ndim - 1)) if scale.numel() > 1 else ()
            kept[weight] = kept[weight].to(torch.float32) * scale.reshape(shape)
    return kept


def unread(tensors: Mapping[str, Tensor], used: Iterable[Tensor], prefix: str) -> list[str]:
    """Keys of a part, which begin with `prefix`, of which nothing was made.

    Conversions hand tensors on, or views of them; of OpenCLIP's joined projections they make copies.
    """
    seen = {tensor.data_ptr() for tensor in used}
    joined = ((name, name.replace(".in_proj_", ".out_proj.")) for name in tensors if name.startswith(prefix))
    return sorted(name for name, stand_in in joined if tensors[stand_in].data_ptr() not in seen)
