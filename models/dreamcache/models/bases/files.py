"""Files of a model's folder: JSON objects, and pickles, which are named and never opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dreamcache.models.errors import AdapterError, reason

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
"""Endings of weights that can run code when they are opened, or that PyTorch does not read."""


TO_SAFETENSORS = (
    "python -c \"import torch, safetensors.torch as s; d = torch.load('FILE', map_location='cpu', weights_only=True); "
    "d = d.get('state_dict', d); s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, "
    "'model.safetensors')\""
)
"""Command for a pickle, with its weights at the top or under ``state_dict``; weights that share memory are copied."""

_INSTEAD = (
    (b"version https://git-lfs", "a Git LFS pointer", "fetch the weights with git lfs pull"),
    (b"GGUF", "GGUF, packed by a quantiser", "give the weights in 16 bits that it was made from"),
    (b"PK\x03\x04", "a pickle by another name", f"where you trust it, convert it: {TO_SAFETENSORS}"),
    (b"<", "a web page", "download it again"),
)
"""First bytes of what people have in the place of weights, its name, and what mends it."""


def refuse_pickle(source: str | Path) -> None:
    """Raises: AdapterError for the name of a file that could run code when it is opened."""
    if Path(source).suffix in PICKLE_SUFFIXES:
        raise AdapterError(
            f"{source} is a pickle, which is never opened as a base; where you trust it, convert it: {TO_SAFETENSORS}"
        )


def pickles_in(folder: Path) -> list[Path]:
    """Files of a folder and its subfolders with such an ending, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in PICKLE_SUFFIXES)


def no_safetensors(path: Path, error: Exception) -> str:
    """What is in the place of weights, and what mends it: for the end of a message.

    Args:
        path: of the file.
        error: what reading it raised.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError:
        head = b""
    for start, found, mend in _INSTEAD:
        if head.startswith(start):
            return f"({found}); {mend}"
    return f"({reason(error)}); download it again"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        AdapterError: not a JSON object.
        OSError: the file is absent.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is absent; download the base again")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{path} is not JSON ({error}); download the base again") from error
    if not isinstance(record, dict):
        raise AdapterError(
            f"{path} holds a {type(record).__name__}, expected an object; download the base again"
        )
    return record
