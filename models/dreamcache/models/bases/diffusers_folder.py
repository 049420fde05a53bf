"""A base in the layout of diffusers: what the folder must hold, which weight files are taken, and loading them.

Only safetensors weights are read. Weights stored in half precision (``*.fp16.safetensors``) are read into
float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dreamcache.models.bases.files import pickles_in, read_json
from dreamcache.models.bases.parts.autoencoder import AUTOENCODERS, Autoencoder
from dreamcache.models.bases.parts.clip_tokenizer import check_tokenizer_class, load_tokenizer
from dreamcache.models.bases.parts.loading import load_part
from dreamcache.models.bases.parts.schedule import check_scheduler_class
from dreamcache.models.bases.parts.second_text import SecondText
from dreamcache.models.bases.parts.soundness import check_config, check_stored
from dreamcache.models.bases.parts.together import Parts
from dreamcache.models.errors import AdapterError

INDEX = "model_index.json"
WEIGHED = ("unet", "vae", "text_encoder")
PARTS = (*WEIGHED, "tokenizer", "scheduler")
SECOND_TEXT = ("text_encoder_2", "tokenizer_2")
"""What SDXL has in addition."""

_PIPELINES = {
    "StableDiffusionXLImg2ImgPipeline": "an SDXL refiner, which goes on from another base's latents",
    "StableDiffusionXLInpaintPipeline": "an SDXL inpainting model",
    "StableDiffusionXLInstructPix2PixPipeline": "an SDXL editing model",
}
"""Classes of SDXL pipelines that are no text-to-image bases."""

_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
"""By which diffusers reads a part, in a table of contents."""

_LIBRARIES = ("diffusers", "transformers")

_FOREIGN = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".msgpack": "Flax", ".mlpackage": "Core ML"}
"""Endings of what other programs run; diffusers reads none of them here."""

_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>[A-Za-z][\w-]*?))?(?:-\d{5}-of-\d{5})?"
    r"(?:\.(?P<late>[A-Za-z]\w*))?\.safetensors"
)


def check_index(name: str, folder: Path, *, own_vae: bool = True) -> bool:
    """Refuse, by its table of contents, all but a Stable Diffusion of one UNet and CLIP's text encoders.

    Args:
        name: of the base, for the message.
        folder: with ``model_index.json``, without which diffusers loads nothing.
        own_vae: whether the base's own VAE is wanted.

    Returns:
        Whether it is SDXL, with `SECOND_TEXT`.

    Raises:
        AdapterError: names the part that is in the way.
    """
    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else None
    if index is None:
        held = {path.name: ["", ""] for path in folder.iterdir() if path.is_dir()}
    else:
        held = {part: kind for part, kind in index.items() if _is_held(kind)}
    if "transformer" in held:
        kind = held["transformer"][1] or "transformer"
        raise AdapterError(
            f"{name} denoises with a transformer ({kind}), as SD3, Flux and PixArt do; "
            "only UNets of Stable Diffusion's kind are supported: give an SD 1.x or 2.x base"
        )
    if index is None:
        raise AdapterError(
            f"{name} has no {INDEX}, without which diffusers loads no pipeline; download the base again, or save it "
            "with diffusers' save_pretrained"
        )
    stated = index.get("_class_name")
    if not isinstance(stated, str) and not (
        isinstance(stated, list) and all(isinstance(n, str) for n in stated)
    ):
        raise AdapterError(
            f"{INDEX} of {name} has _class_name {json.dumps(stated)[:40]}, expected the name of a pipeline of "
            "diffusers; correct it there, or download the base again"
        )
    if isinstance(stated, str) and stated in _PIPELINES:
        raise AdapterError(
            f"{name} is {_PIPELINES[stated]} ({stated}), expected StableDiffusionXLPipeline; give an SDXL base"
        )
    dual = "text_encoder_2" in held or stated == "StableDiffusionXLPipeline"
    for part, wanted in _CLASSES.items():
        # Of one text encoder diffusers reads the first output, which is the pooled embedding with a projection.
        allowed = (*wanted, *_CLASSES["text_encoder_2"]) if dual and part == "text_encoder" else wanted
        kind = held.get(part, ["", ""])[1]
        if kind and kind.removeprefix("Flax") not in allowed:
            raise AdapterError(f"the {part} of {name} is a {kind}, expected {wanted[0]}; give another base")
    for part in ("tokenizer", "tokenizer_2"):
        if kind := held.get(part, ["", ""])[1]:
            check_tokenizer_class(f"the {part} of {name}", kind)
    _check_held(name, held, _needed(dual, own_vae))
    return dual


def _check_held(name: str, held: Mapping[str, Any], needed: Sequence[str]) -> None:
    """Raises: AdapterError for parts that the table of contents leaves out, or takes from another library."""
    if lacking := [part for part in needed if part not in held]:
        raise AdapterError(
            f"{INDEX} of {name} names no {', '.join(lacking)}, without which diffusers loads no such pipeline; "
            "download the base again, or correct it there"
        )
    for part in needed:
        library, kind = held[part]
        if library not in _LIBRARIES:
            raise AdapterError(
                f"the {part} of {name} is a {kind} of {library}, code that diffusers would import; expected one of "
                f"{' or '.join(_LIBRARIES)}: give another base"
            )


def _needed(dual: bool, own_vae: bool) -> list[str]:
    """Parts of a text-to-image pipeline."""
    return [part for part in (*PARTS, *(SECOND_TEXT if dual else ())) if own_vae or part != "vae"]


def load_folder(folder: Path, variant: str | None = None, vae: Autoencoder | None = None) -> Parts:
    """Every part of a folder, weights in float32.

    Args:
        folder: in the layout of diffusers.
        variant: such as ``fp16`` or ``non_ema``; None takes the plain weights where there are any.
        vae: in the place of the folder's own, which is then not looked at.

    Raises:
        AdapterError: an unsupported model or tokenizer, no such variant, or weights that are incomplete or pickles.
        FileNotFoundError: a part is missing.
        OSError: a part cannot be read (diffusers and transformers say which).
    """
    chosen = _chosen(folder, variant, own_vae=vae is None)
    for part, files in weight_files(folder, variant, own_vae=vae is None).items():
        check_stored(str(folder / part), files)
    return Parts(
        tokenizer=load_tokenizer(folder / "tokenizer"),
        vae=_autoencoder(folder / "vae", chosen["vae"]) if vae is None else vae,
        text_encoder=load_part(CLIPTextModel, folder / "text_encoder", chosen["text_encoder"], "dtype"),
        unet=load_part(UNet2DConditionModel, folder / "unet", chosen["unet"], "torch_dtype"),
        scheduler=read_scheduler(folder),
        second=None if "text_encoder_2" not in chosen else _second_text(folder, chosen["text_encoder_2"]),
    )


def _second_text(folder: Path, variant: str) -> SecondText:
    index = read_json(folder / INDEX)
    return SecondText(
        load_part(CLIPTextModelWithProjection, folder / "text_encoder_2", variant, "dtype"),
        load_tokenizer(folder / "tokenizer_2"),
        bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def load_autoencoder(part: Path) -> Autoencoder:
    """A VAE alone, by its folder, in float32.

    Raises:
        AdapterError: another class, packed by a quantiser, incomplete, or pickles alone.
        FileNotFoundError: no config.
    """
    if not (part / "config.json").is_file():
        raise FileNotFoundError(f"{part} has no config.json; give a diffusers folder of a VAE")
    check_config(part, "vae")
    check_stored(str(part), stored_weights(part))
    return _autoencoder(part, _choose(part, None))


def stored_weights(part: Path, variant: str | None = None) -> list[Path]:
    """The files of a part's weights.

    Raises:
        AdapterError: none, or pickles alone.
    """
    chosen = _choose(part, variant)
    return [path for path in sorted(part.glob("*.safetensors")) if _variant(path) == chosen]


def read_scheduler(folder: Path) -> dict[str, Any]:
    """A folder's scheduler config. Its class is the table of contents', as in diffusers, else the config's own.

    Raises:
        AdapterError: not a JSON object, or a table of contents that names an unknown class.
        OSError: no config.
    """
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    if config.get("_class_name", "") is None:
        raise AdapterError(
            f"the scheduler config of {folder} has _class_name null, which diffusers does not load; name its class"
        )
    # A folder of configs alone, for a checkpoint, may have none.
    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
    held: Any = index.get("scheduler")
    if not _is_held(held):
        return config
    check_scheduler_class(str(folder), str(held[1]))
    return {**config, "_class_name": held[1]}


def variants(part: Path) -> set[str]:
    """The variants of a part's safetensors weights; the plain one is the empty text."""
    return {found for path in part.glob("*.safetensors") if (found := _variant(path)) is not None}


def weight_files(folder: Path, variant: str | None = None, *, own_vae: bool = True) -> dict[str, list[Path]]:
    """The files that `load_folder` reads, of each part with weights; the VAE's if it is the folder's `own_vae`.

    Raises:
        AdapterError: an unsupported model, or no such weights.
        FileNotFoundError: a part is missing.
    """
    return {part: stored_weights(folder / part, variant) for part in _chosen(folder, variant, own_vae)}


def _is_held(kind: object) -> bool:
    return isinstance(kind, list) and len(kind) == 2 and all(isinstance(word, str) for word in kind)


def _variant(path: Path) -> str | None:
    """The variant that a weight file's name states, "" for none; None for another kind of file."""
    match = _WEIGHTS.fullmatch(path.name)
    return None if match is None else match["variant"] or match["late"] or ""


def _chosen(folder: Path, variant: str | None, own_vae: bool) -> dict[str, str]:
    """Chosen variant of each part's weights, after every check that needs no weights."""
    dual = check_index(str(folder), folder, own_vae=own_vae)
    needed = _needed(dual, own_vae)
    missing = [part for part in needed if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)}; expected a Stable Diffusion {'XL ' if dual else ''}"
            "folder of diffusers"
        )
    weighed = [part for part in (*WEIGHED, SECOND_TEXT[0]) if part in needed]
    index = read_json(folder / INDEX)
    for part in weighed:
        check_config(folder / part, part, index[part][1])
    chosen = {part: _choose(folder / part, variant) for part in weighed}
    if variant is not None and variant not in chosen.values():
        raise AdapterError(f"{folder} has no weights of the variant {variant!r}; it has {_listed(folder)}")
    return chosen


def _choose(part: Path, wanted: str | None) -> str:
    found = variants(part)
    for choice in (wanted, "", "fp16", *sorted(found)):
        if choice is not None and choice in found:
            return choice
    foreign = sorted(path.name for path in part.iterdir() if path.suffix in _FOREIGN)
    if foreign:
        raise AdapterError(
            f"{part} holds {foreign[0]}, for {_FOREIGN[Path(foreign[0]).suffix]}, and no safetensors weights; give the "
            "base that it was made from"
        )
    if pickles := pickles_in(part):
        raise AdapterError(
            f"{part} holds {pickles[0].name}, a pickle, which is never opened; save the base again where you trust "
            "it, with diffusers' save_pretrained(safe_serialization=True)"
        )
    raise AdapterError(f"{part} holds no safetensors weights; download the base again")


def _listed(folder: Path) -> str:
    found = sorted({variant for part in WEIGHED for variant in variants(folder / part)})
    return ", ".join(variant or "plain ones" for variant in found)


def _autoencoder(part: Path, variant: str) -> Autoencoder:
    kind = read_json(part / "config.json").get("_class_name") or "AutoencoderKL"
    loaded: Autoencoder = load_part(AUTOENCODERS[str(kind)], part, variant, "torch_dtype")
    return loaded
