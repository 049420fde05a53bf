"""The layout of the authors' released adapters, ``cross_attention-*.pt``, and how it maps to ours.

Source: the authors' research code (repository Emanuele97x/DreamCache; facts alone). The file is a state dict of
those parameters of the UNet, in latent diffusion's names, whose name holds ``attn_mem``, ``norm2_mem`` or
``linear_cat``; the block they lie in is counted through the decoder, so block n of ``output_blocks`` is
transformer n mod (l + 1) of decoder level n div (l + 1), with l layers per level in the encoder. Nothing here
opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from dreamcache.models.checkpoint import adapter_state
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.errors import AdapterError

_KEY = re.compile(
    r"(?:model\.)?(?:diffusion_model\.)?(?P<place>middle_block\.1|output_blocks\.\d+\.1)"
    r"\.transformer_blocks\.0\.(?P<name>[\w.]+)"
)

_NAMES = {
    "attn_mem.to_q.weight": "to_q.weight",
    "attn_mem.to_k.weight": "to_k.weight",
    "attn_mem.to_v.weight": "to_v.weight",
    "attn_mem.to_out.0.weight": "to_out.weight",
    "attn_mem.to_out.0.bias": "to_out.bias",
    "norm2_mem.weight": "norm.weight",
    "norm2_mem.bias": "norm.bias",
    "linear_cat.weight": "fuse.weight",
    "linear_cat.bias": "fuse.bias",
}


def released_name(key: str, layers_per_block: int) -> str | None:
    """Our name of a released key, or None for a key of another layout.

    Args:
        key: such as ``diffusion_model.output_blocks.4.1.transformer_blocks.0.attn_mem.to_q.weight``.
        layers_per_block: of the encoder.
    """
    match = _KEY.fullmatch(key)
    if match is None or match["name"] not in _NAMES:
        return None
    if match["place"].startswith("middle"):
        site = "mid_block.attentions.0"
    else:
        level, i = divmod(int(match["place"].split(".")[1]), layers_per_block + 1)
        site = f"up_blocks.{level}.attentions.{i}"
    return f"{site}.{_NAMES[match['name']]}"


def adapters_from_released(
    released: Mapping[str, object], unet: UNet2DConditionModel, name: str = "the file"
) -> ConditionedUNet:
    """The base with the released adapters.

    Args:
        released: the state dict of a ``cross_attention-*.pt``.
        unet: the base that the adapters were trained on.
        name: of the file, for messages.

    Raises:
        AdapterError: keys of another layout, keys that are missing, values that are no finite tensors, or shapes
            of another base; lists them.
    """
    layers = unet.config.layers_per_block
    if not isinstance(layers, int):
        raise AdapterError(
            f"the base has levels of different lengths ({layers}), expected equal ones for {name}; give another base"
        )
    names = {key: released_name(str(key), layers) for key in released}
    unknown = sorted(str(key) for key, ours in names.items() if ours is None)
    if unknown:
        raise AdapterError(
            f"{name} has {_counted(unknown)} of another layout; give a cross_attention-*.pt file"
        )
    conditioned = ConditionedUNet(unet).eval()
    state = adapter_state(conditioned)
    keys = {ours: key for key, ours in names.items()}
    missing = sorted(name for name in state if name not in keys)
    extra = sorted(str(key) for key, ours in names.items() if ours not in state)
    if missing or extra:
        raise AdapterError(
            f"{name} does not fit the base's sites: without a place are {_counted(extra)}, "
            f"missing are {_counted(missing)}; give the base that the adapters were trained on"
        )
    with torch.no_grad():
        for ours, parameter in state.items():
            parameter.copy_(_checked(name, str(keys[ours]), released[keys[ours]], parameter))
    return conditioned


def _checked(name: str, key: str, value: object, parameter: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
        raise AdapterError(f"{name}: {key} is not a tensor of numbers; give a cross_attention-*.pt file")
    if value.shape != parameter.shape:
        raise AdapterError(
            f"{name}: {key} is {list(value.shape)}, expected {list(parameter.shape)}; "
            "give the base that the adapters were trained on"
        )
    if not bool(torch.isfinite(value).all()):
        raise AdapterError(f"{name}: {key} has values that are not finite numbers; download it again")
    return value


def _counted(keys: list[str], most: int = 3) -> str:
    if not keys:
        return "no keys"
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{len(keys)} keys ({', '.join(keys[:most])}{rest})"
