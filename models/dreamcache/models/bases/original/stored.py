"""What a checkpoint's file holds: shapes and words of its header, and weights; files of other kinds are named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dreamcache.models.bases.files import no_safetensors
from dreamcache.models.bases.original.layout import in_diffusers_names, originals
from dreamcache.models.bases.original.other_tools import UNET, averaged_copy, is_scale, is_weight, multiplied
from dreamcache.models.bases.parts.soundness import refuse_packed
from dreamcache.models.errors import AdapterError

Shapes = Mapping[str, Sequence[int]]
_CONV_IN = f"{UNET}input_blocks.0.0.weight"
# Of SDXL in its authors' layout and in ComfyUI's; Stable Diffusion 2 may have embedder 0.
_SECOND_TEXT = ("conditioner.embedders.1.", "text_encoders.clip_g.", "cond_stage_model.clip_g.")
_TRANSFORMERS = ("joint_blocks.", "double_blocks.", "transformer_blocks.", "double_stream_blocks.")


def read_shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor, from the file's header alone.

    Raises:
        AdapterError: no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            return {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is not a safetensors checkpoint {no_safetensors(path, error)}") from error


def read_layout(path: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Of every key its name in the original layout, and of every such name its shape.

    Raises:
        AdapterError: no checkpoint of Stable Diffusion 1 or 2.
    """
    stored = read_shapes(path)
    _check_kind(path, stored)
    placed = originals(path, stored)
    shapes = {placed[name]: shape for name, shape in stored.items()}
    check_layout(path, shapes)
    return placed, shapes


def read_metadata(path: Path) -> dict[str, str]:
    """What the file's header says in words."""
    with safe_open(path, framework="pt") as stored:
        return dict(stored.metadata() or {})


def read_tensors(path: Path, ema: bool = False, placed: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Every weight, scaled ones multiplied; notes and what is not asked for stay where they are.

    Args:
        path: of the file.
        ema: take the averaged copy of the UNet.
        placed: by key the name that the weight gets; None leaves them.

    Raises:
        AdapterError: weights that a quantiser packed, or no averaged copy.
    """
    tensors: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as stored:
        names = [name for name in stored.keys() if is_weight(name)]  # noqa: SIM118 (no mapping)
        kinds = {name: stored.get_slice(name).get_dtype() for name in names}
        scaled = {f"{name.rsplit('.', 1)[0]}.weight" for name in names if is_scale(name)}
        refuse_packed(
            str(path), {name: kind for name, kind in kinds.items() if not (kind == "I8" and name in scaled)}
        )
        for name in names:
            new = name if placed is None else placed[name]
            source = averaged_copy(path, new, stored.keys()) if ema and new.startswith(UNET) else name
            tensors[new] = stored.get_tensor(source)
    return multiplied(tensors)


def check_layout(path: Path, shapes: Shapes) -> None:
    """Refuse, by its keys, all but Stable Diffusion 1 and 2 in the original layout.

    Raises:
        AdapterError: names what the file is instead.
    """
    _check_kind(path, shapes)
    if (key := in_diffusers_names(shapes)) is not None:
        raise AdapterError(
            f"{path} is one file with diffusers' names ({key}); give the folder that it was made from, or save it as "
            "one with save_pretrained"
        )
    if _CONV_IN not in shapes:
        raise AdapterError(
            f"{path} holds no UNet in the original layout ({_CONV_IN} is absent); "
            "give a complete Stable Diffusion checkpoint"
        )
    if shapes[_CONV_IN][1] != 4 and shapes[_CONV_IN][1] in (8, 9):
        raise AdapterError(
            f"the UNet of {path} takes {shapes[_CONV_IN][1]} channels: an inpainting or editing model; "
            "give the text-to-image base it was made from"
        )


def _check_kind(path: Path, names: Iterable[str]) -> None:
    """Raises: AdapterError naming what no checkpoint of Stable Diffusion 1 and 2 has, wherever its parts lie."""
    if any(name.removeprefix(UNET).startswith(_TRANSFORMERS) for name in names):
        raise AdapterError(
            f"{path} denoises with a transformer, as SD3, Flux and PixArt do; "
            "only UNets of Stable Diffusion's kind are supported: give an SD 1.x or 2.x base"
        )
    if any(name.startswith(_SECOND_TEXT) for name in names):
        raise AdapterError(
            f"{path} has two text encoders, as SDXL does; SDXL is read from a diffusers folder: give that"
        )
    if any(name.startswith("down_blocks.") for name in names):
        raise AdapterError(f"{path} is one part of a diffusers folder; give the whole folder")
