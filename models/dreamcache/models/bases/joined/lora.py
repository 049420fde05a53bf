"""LoRAs joined to a base's weights for good, by diffusers' own `load_lora_weights` and `fuse_lora`.

Before it, every key of the file is shown to have a layer of its size in this base: diffusers warns of what it leaves
out, and a picture with half of a LoRA looks like one with all of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor, nn

from dreamcache.models.bases.joined.additions import JoinedFile, digest_of, read_addition, split_weight
from dreamcache.models.bases.original.statements import read_statement
from dreamcache.models.bases.original.stored import read_metadata
from dreamcache.models.bases.parts.schedule import quiet_diffusers
from dreamcache.models.bases.parts.together import Parts
from dreamcache.models.errors import AdapterError, BaseWarning, reason

# Parts of a key, and what a file with such keys is; diffusers drops or refuses each.
_OTHERS = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "hada_w": "a LoHa",
    "lokr_w": "a LoKr",
    "oft_": "an OFT",
    ".on_input": "an (IA)³",
    ".diff": "a difference of whole weights",
    "lora_mid": "a LoCon with a third matrix (CP decomposition)",
    "lora_te2_": "a LoRA of SDXL",
    "text_encoder_2.": "a LoRA of SDXL",
    "lora_transformer_": "a LoRA of a transformer (SD3, Flux)",
    "transformer.": "a LoRA of a transformer (SD3, Flux)",
    "double_blocks": "a LoRA of a transformer (Flux)",
    "bundle_emb.": "a LoRA with textual inversions inside",
}
_PARTS = ("unet", "text_encoder")
_KOHYA = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_")}
_NAME = "joined"


def join_lora(parts: Parts, given: str) -> JoinedFile:
    """Join one LoRA to the UNet and the text encoder of a base, in place.

    Args:
        parts: of the base.
        given: ``FILE`` or ``FILE:weight``.

    Raises:
        AdapterError: another kind of file, of another architecture, with keys that nothing reads, or broken.
        FileNotFoundError: no such file.
    """
    if find_spec("peft") is None:
        raise AdapterError("--lora needs peft; install it with: pip install 'dreamcache[export]'")
    path, weight = split_weight(given)
    tensors = read_addition("--lora", path)
    _refuse_others(path, tensors)
    wanted = _layers(path, parts, tensors)
    _warn_of_prediction(path, parts)
    pipeline = _pipeline(parts)
    shapes = {part: _shapes(getattr(parts, part)) for part in _PARTS}
    try:
        with quiet_diffusers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.load_lora_weights(str(path.absolute()), adapter_name=_NAME, use_safetensors=True)
        for part in _PARTS:
            _check_scales(path, part, getattr(parts, part), wanted[part], tensors)
        components = [part for part in _PARTS if wanted[part]]
        pipeline.fuse_lora(components, lora_scale=weight, adapter_names=[_NAME])
    except AdapterError:
        raise
    except Exception as error:  # whatever diffusers and peft raise on a file's metadata
        raise AdapterError(f"--lora {path} cannot be joined ({reason(error)}); give another file") from error
    finally:
        pipeline.unload_lora_weights()
    for part in _PARTS:
        model: nn.Module = getattr(parts, part)
        assert _shapes(model) == shapes[part], "joining leaves the layers as they were"
        model.eval().requires_grad_(False)
    return JoinedFile("lora", path.name, digest_of([path]), weight)


def _warn_of_prediction(path: Path, parts: Parts) -> None:
    """Warns: BaseWarning for a LoRA that says it was trained on the other kind of prediction than the base's."""
    stated = read_statement(f"--lora {path}", (), read_metadata(path)).prediction_type
    predicts = parts.scheduler.get("prediction_type", "epsilon")
    if stated is not None and stated != predicts:
        warnings.warn(
            f"--lora {path} says of itself that it was trained on {stated}, and the base predicts {predicts}; it is "
            "joined all the same",
            BaseWarning,
            stacklevel=3,
        )


def _refuse_others(path: Path, tensors: Iterable[str]) -> None:
    for key in tensors:
        for sign, kind in _OTHERS.items():
            if sign in key:
                raise AdapterError(
                    f"--lora {path} is {kind} ({key}), expected a LoRA or LoCon of Stable Diffusion 1.x or 2.x; give "
                    "another file"
                )


def _layers(path: Path, parts: Parts, tensors: Mapping[str, Tensor]) -> dict[str, set[str]]:
    """Layers of each part that the file changes, all of which exist in their size.

    Raises:
        AdapterError: names the keys or the layer.
    """
    try:
        converted, _ = StableDiffusionPipeline.lora_state_dict(dict(tensors))
        unet = _of(converted, "unet")
        text = _of(converted, "text_encoder")
        if unet and "lora_A" not in next(iter(unet)):
            unet = convert_unet_state_dict_to_peft(unet)
        text = convert_state_dict_to_peft(convert_state_dict_to_diffusers(text)) if text else text
    except Exception as error:  # whatever diffusers' tables raise on keys that they do not know
        named = " ".join(str(error).split())[:200] or reason(error)
        raise AdapterError(
            f"--lora {path} has keys that diffusers cannot place ({named}); give a LoRA of Stable Diffusion 1.x or 2.x "
            "in kohya's or diffusers' form"
        ) from error
    unread = [key for key in converted if not key.startswith(tuple(f"{part}." for part in _PARTS))]
    if unread or not (unet or text):
        raise AdapterError(
            f"--lora {path} has keys that nothing reads: {_some(unread or tensors)}; expected a LoRA of Stable "
            "Diffusion 1.x or 2.x in kohya's or diffusers' form"
        )
    return {
        "unet": set(_placed(path, "unet", parts.unet, unet)),
        "text_encoder": set(_placed(path, "text encoder", parts.text_encoder, text)),
    }


def _placed(path: Path, part: str, model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """The layer of each pair of matrices, whose sizes are the layer's."""
    modules = dict(model.named_modules())
    for key, tensor in tensors.items():
        name, _, end = key.rpartition(".lora_")
        layer = modules.get(name)
        if end not in ("A.weight", "B.weight") or not isinstance(layer, (nn.Linear, nn.Conv2d)):
            raise AdapterError(
                f"--lora {path} has keys that nothing reads: {key} of the {part}; give a LoRA of this base's "
                "architecture"
            )
        # A slides over the picture as the layer does, B does not.
        kernel = list(layer.weight.shape[2:]) if end.startswith("A") else [1] * (layer.weight.ndim - 2)
        if list(tensor.shape[2:]) != kernel or not tensor.numel():
            raise AdapterError(
                f"--lora {path} has {key} of the {part} as {list(tensor.shape)}, expected a rank and channels, and a "
                f"kernel {kernel} after them as the layer has it; save it again with the tool that trained it"
            )
        # A reads what the layer reads, B gives what it gives.
        axis = 1 if end.startswith("A") else 0
        if tensor.shape[axis] != layer.weight.shape[axis]:
            raise AdapterError(
                f"--lora {path} is made for another architecture: {name} of the {part} has "
                f"{layer.weight.shape[axis]} channels, and the file {tensor.shape[axis]}; give a LoRA of this base's"
            )
        pair = f"{name}.lora_{'B' if end.startswith('A') else 'A'}.weight"
        if pair not in tensors:
            raise AdapterError(f"--lora {path} lacks {pair} of the {part}; download it again")
        yield name


def _pipeline(parts: Parts) -> Any:
    """diffusers' pipeline of the base's own parts, for its loaders alone."""
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    start = f"{part}."
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def _check_scales(
    path: Path, part: str, model: nn.Module, wanted: set[str], tensors: Mapping[str, Tensor]
) -> None:
    """Refuse what diffusers would leave out, or join at another scale than the file's alpha / rank.

    It loses kohya's alphas of attentions where they differ by layer; in diffusers' own form one alpha counts for all
    ranks.

    Raises:
        AdapterError: names the layer.
    """
    named = part.replace("_", " ")
    held: dict[str, Any] = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    if missed := wanted - set(held):
        raise AdapterError(
            f"--lora {path}: {_some(missed)} of the {named} would be left out; report this file"
        )
    for name in () if LORA_ADAPTER_METADATA_KEY in read_metadata(path) else sorted(wanted):
        received, stated = held[name].scaling[_NAME], _stated_scale(part, name, held[name].r[_NAME], tensors)
        if abs(received - stated) > 1e-6 * max(1.0, abs(stated)):
            raise AdapterError(
                f"--lora {path}: diffusers would join {name} of the {named} at {received:g} times, and the file says "
                f"{stated:g} (alpha / rank), since ranks or alphas differ by layer; save it again with one rank and "
                "one alpha, as sd-scripts' resize_lora.py does"
            )


def _stated_scale(part: str, name: str, rank: int, tensors: Mapping[str, Tensor]) -> float:
    """A layer's alpha / rank; without an alpha it is 1."""
    keys = [f"{start}{name.replace('.', '_')}.alpha" for start in _KOHYA[part]]
    return next((float(tensors[key]) / rank for key in keys if key in tensors), 1.0)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _some(names: Iterable[str], most: int = 3) -> str:
    found = sorted(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
