"""Whether each part is of a class that is supported, stored as plain numbers, and finite."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dreamcache.models.bases.files import no_safetensors, read_json
from dreamcache.models.bases.parts.autoencoder import AUTOENCODERS
from dreamcache.models.errors import AdapterError

_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": tuple(AUTOENCODERS),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
_WHAT = {
    "AsymmetricAutoencoderKL": "an autoencoder for inpainting",
    "ConsistencyDecoderVAE": "a decoder that draws in steps",
    "UNet2DModel": "a UNet without text",
    "UNet3DConditionModel": "a UNet of videos",
    "UNetMotionModel": "a UNet of videos",
}
_PEFT = "adapter_config.json"
_PLAIN = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_SCALES = (
    ".scale_weight",
    ".weight_scale",
    ".scale",
    ".absmax",
    ".quant_map",
    ".qweight",
    ".scales",
    ".qzeros",
)

# Buffers, what a whole CLIP has besides, and what an autoencoder was trained with.
_IDLE = re.compile(
    r"(?:^|\.)(?:position_ids|attn_mask|logit_scale|(?:text|visual)_projection(?:\.weight)?)$"
    r"|(?:^|\.)(?:vision_model|visual|loss|model_ema)\."
)
_LAYER = re.compile(r"\.(?:layers|resblocks)\.(\d+)\.")


def check_config(part: Path, kind: str, listed_as: str | None = None) -> None:
    """Refuse a part of another class, or one that a quantiser packed, by its config.json.

    Args:
        part: its folder.
        kind: ``unet``, ``vae`` or ``text_encoder``.
        listed_as: its class in the table of contents, by which diffusers reads it.

    Raises:
        AdapterError: names part and class.
    """
    path = part / "config.json"
    if not path.is_file():
        return
    config = read_json(path)
    listed = config.get("architectures") or []
    stated = config.get("_class_name") or next(iter(listed if isinstance(listed, list) else [listed]), None)
    expected = _CLASSES[kind]
    for found in (stated, listed_as) if kind == "vae" else (stated,):
        if found is not None and found not in expected:
            named = found if isinstance(found, str) else json.dumps(found)[:40]
            what = f" ({_WHAT[named]})" if named in _WHAT else ""
            raise AdapterError(
                f"{part} is a {named}{what}, expected {' or '.join(expected[:2])}; give another "
                f"{'VAE' if kind == 'vae' else 'base'}"
            )
    if kind == "vae" and None not in (stated, listed_as) and stated != listed_as:
        raise AdapterError(
            f"{part} is a {stated} by its config.json and a {listed_as} by model_index.json, by which diffusers reads "
            "it; correct the one that is wrong"
        )
    if kind.startswith("text_encoder") and (part / _PEFT).is_file():
        raise AdapterError(
            f"{part} holds a LoRA beside its weights ({_PEFT}), which transformers would load with them; remove it, or "
            "merge it with peft's merge_and_unload"
        )
    if (packed := config.get("quantization_config")) is not None:
        method = packed.get("quant_method") if isinstance(packed, dict) else None
        raise AdapterError(
            f"{part} was packed by a quantiser (quantization_config, {method or 'of an unknown method'}), expected "
            "plain weights; give the base it was made from"
        )


def check_stored(name: str, files: Iterable[Path]) -> None:
    """Refuse weights that are more than plain numbers, by the files' headers.

    Raises:
        AdapterError: names the tensor.
    """
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                kinds = {key: stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise AdapterError(f"{file} is not a safetensors file {no_safetensors(file, error)}") from error
        refuse_packed(name, kinds)
        for key in kinds:
            if key.endswith(_SCALES):
                raise AdapterError(
                    f"{name} has scaled weights ({key}), which diffusers would not multiply; give its 16-bit files"
                )


def refuse_packed(name: str, kinds: Mapping[str, str]) -> None:
    """Raises: AdapterError naming a weight that is stored in whole numbers."""
    for key, kind in kinds.items():
        if key.endswith((".weight", ".bias")) and kind not in _PLAIN:
            raise AdapterError(
                f"{name} stores {key} as {kind}, packed by a quantiser; expected plain weights: give the base it was "
                "made from"
            )


def refuse_non_finite(name: str, parts: Mapping[str, nn.Module]) -> None:
    """Raises: AdapterError naming part and tensor of weights that are not finite."""
    for part, model in parts.items():
        state: dict[str, Tensor] = model.state_dict()
        for key, tensor in state.items():
            if tensor.is_floating_point() and not _finite(tensor):
                raise AdapterError(
                    f"the {part} of {name} has values that are not finite numbers in {key}; download it again, "
                    "or give another"
                )


def refuse_missing(
    name: str, missing: Iterable[str], others: Iterable[str] = (), *, vae: bool = False
) -> None:
    """Refuse weights that are missing, which loaders fill at random.

    Args:
        name: of the part, for the message.
        missing: their names.
        others: names that nothing reads.
        vae: it is a VAE, which a base may go without.

    Raises:
        AdapterError: some are missing.
    """
    if not (keys := sorted(missing)):
        return
    if other := sorted(others):
        raise AdapterError(
            f"{name} lacks {_some(keys)}, and has {_some(other)} instead; the base is incomplete, of another class, or "
            "named by another tool: download it again, or save it again with diffusers"
        )
    raise AdapterError(
        f"{name} lacks {_some(keys)}; the base is incomplete: download it again{', or give --vae' if vae else ''}"
    )


def without_meaning(key: str, layers: int | None = None) -> bool:
    """Whether a weight that nothing reads changes no picture of Stable Diffusion.

    Args:
        key: its name, in the words of diffusers and transformers or in the original ones.
        layers: of a text encoder: how many its config asks for. Layers beyond are left out on purpose: Stable
            Diffusion 2 leaves its last one, and a smaller number is how some bases say what diffusers' ``clip_skip``
            says.
    """
    beyond = None if layers is None else _LAYER.search(key)
    return _IDLE.search(key) is not None or (beyond is not None and int(beyond[1]) >= (layers or 0))


def refuse_unexpected(name: str, keys: Iterable[str]) -> None:
    """Raises: AdapterError naming weights that no layer of the model takes."""
    if found := sorted(keys):
        raise AdapterError(
            f"{name} has weights that nothing reads: {_some(found)}; its architecture is not its config's"
        )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{', '.join(keys[:3])}{more}"


def _finite(tensor: Any) -> bool:
    # A sum is a single pass without a mask; only what overflows is looked at again.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())
