"""One part of a diffusers folder as a model: every entry of its config and every weight accounted for."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_type_hints

import torch
from transformers import PreTrainedModel

from dreamcache.models.bases.files import read_json
from dreamcache.models.bases.parts.schedule import quiet_diffusers
from dreamcache.models.bases.parts.soundness import refuse_missing, refuse_unexpected, without_meaning
from dreamcache.models.errors import AdapterError, reason

# transformers 5 has no text_model in CLIPTextModel.
_CLIP_NAMES = {r"^(embeddings|encoder|final_layer_norm)\.": r"text_model.\1."}


_NUMBERS = {int: "whole number", float: "number"}

# Entries of transformers' CLIPTextConfig, which has no type hints, that a text encoder computes with.
_OF_TEXT: dict[str, type] = {
    "hidden_size": int,
    "intermediate_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "max_position_embeddings": int,
    "vocab_size": int,
    "eos_token_id": int,
    "layer_norm_eps": float,
}

CONFIG_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the classes' arithmetic raises on a wrong entry."""


def load_part(kind: Any, part: Path, variant: str, dtype: str) -> Any:
    """A model in float32.

    Args:
        kind: its class, of diffusers or transformers.
        part: its folder, with ``config.json``.
        variant: of its weight files, "" for the plain ones.
        dtype: what the class calls that argument: transformers has renamed what diffusers still calls torch_dtype.

    Raises:
        AdapterError: a config that the class cannot read, or weights that are not those that the config asks for.
        OSError: a file cannot be read (diffusers and transformers say which).
    """
    check_numbers(kind, part)
    _check_shards(part, variant)
    arguments: dict[str, Any] = {"use_safetensors": True, "variant": variant or None, dtype: torch.float32}
    if issubclass(kind, PreTrainedModel):
        arguments["key_mapping"] = _CLIP_NAMES
    try:
        with quiet_diffusers():
            model, report = kind.from_pretrained(
                part, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
            )
    except CONFIG_ERRORS as error:
        raise _unreadable(part, why_unreadable(error)) from error
    layers = getattr(model.config, "num_hidden_layers", None)
    unread = [key for key in report["unexpected_keys"] if not without_meaning(key, layers)]
    refuse_missing(str(part), report["missing_keys"], unread, vae=part.name == "vae")
    for key in report["mismatched_keys"]:
        name = key if isinstance(key, str) else key[0]
        raise _unreadable(part, f"{name} has another shape than {list(model.state_dict()[name].shape)}")
    refuse_unexpected(str(part), unread)
    return model


def why_unreadable(error: Exception) -> str:
    """What one of `CONFIG_ERRORS` says, in one line."""
    return f"{error} is not known" if isinstance(error, KeyError) else reason(error)


def _unreadable(part: Path, why: str) -> AdapterError:
    return AdapterError(f"{part} cannot be read ({why}); correct its config.json, or download it again")


def check_numbers(kind: Any, part: Path) -> None:
    """Refuse a config with something else where its class only takes a number.

    Args:
        kind: class of the part.
        part: its folder, with ``config.json``.

    Raises:
        AdapterError: names the entry.
    """
    config = read_json(part / "config.json")
    of_text = issubclass(kind, PreTrainedModel)
    hints = _OF_TEXT if of_text else get_type_hints(inspect.unwrap(kind.__init__))
    for name, hint in hints.items():
        value = config.get(name, 0)
        # A class that does not know an entry's null may read a config of one that does, but for counts.
        wrong = isinstance(value, str) or (value is None and hint is int)
        if of_text:
            wrong = isinstance(value, bool) or not isinstance(value, (int, hint))
        if hint in _NUMBERS and wrong:
            raise _unreadable(part, f"{name} is {json.dumps(value)[:40]}, expected a {_NUMBERS[hint]}")


def _check_shards(part: Path, variant: str) -> None:
    """Raises: AdapterError for shards without their index, an index of no use, or one that names absent shards."""
    held = {path.name for path in part.iterdir()}
    ending = f".{variant}.safetensors" if variant else ".safetensors"
    words = {*ending.split(".")[1:], "index", "json"}
    indexes = [name for name in sorted(held) if set(name.split(".")[1:]) == words]
    if not indexes and not held & {f"{stem}{ending}" for stem in ("diffusion_pytorch_model", "model")}:
        raise AdapterError(f"{part} holds shards of weights without their index; download the base again")
    for name in indexes:
        index = read_json(part / name)
        shards, notes = index.get("weight_map"), index.get("metadata")
        if not isinstance(shards, dict) or not isinstance(notes, dict):
            raise AdapterError(f"{part / name} lacks weight_map or metadata; download the base again")
        if absent := sorted({str(shard) for shard in shards.values()} - held):
            raise AdapterError(f"{part / name} names {absent[0]}, which is absent; download the base again")
