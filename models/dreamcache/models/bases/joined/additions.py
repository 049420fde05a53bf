"""What is joined to a base, as it is asked for and as the contract will name it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dreamcache.models.bases.files import PICKLE_SUFFIXES, no_safetensors
from dreamcache.models.bases.parts.soundness import refuse_packed
from dreamcache.models.errors import AdapterError

JoinedKind = Literal["vae", "lora", "textual_inversion"]


@dataclass(frozen=True)
class Additions:
    """What is asked for.

    Attributes:
        vae: folder, Hub id or file of another VAE; None keeps the base's own.
        loras: ``FILE`` or ``FILE:weight`` of each LoRA.
        inversions: ``FILE`` or ``FILE:token`` of each textual inversion.
    """

    vae: str | Path | None = None
    loras: tuple[str, ...] = ()
    inversions: tuple[str, ...] = ()


NOTHING = Additions()


@dataclass(frozen=True)
class JoinedFile:
    """What was joined.

    Attributes:
        kind: of the addition.
        name: of its file, folder or Hub id, without the place where it lay.
        sha256: over its weight files, one after the other.
        weight: that a LoRA was joined with.
        tokens: that a textual inversion brought.
    """

    kind: JoinedKind
    name: str
    sha256: str
    weight: float | None = None
    tokens: tuple[str, ...] = ()


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 over files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def split_weight(given: str) -> tuple[Path, float]:
    """``FILE:weight`` in its parts; without a weight it is 1.

    Raises:
        AdapterError: a weight that is no number.
    """
    file, _, weight = given.rpartition(":")
    if not file or Path(given).is_file():
        return Path(given), 1.0
    try:
        number = float(weight)
    except ValueError:
        # A colon of the file's own name, which is then looked for as it is.
        return Path(given), 1.0
    if not isfinite(number):
        raise AdapterError(f"--lora {given}: a finite weight is expected, received {weight}")
    return Path(file), number


def split_token(given: str) -> tuple[Path, str | None]:
    """``FILE:token`` in its parts."""
    if Path(given).is_file():
        return Path(given), None
    file, _, token = given.partition(".safetensors:")
    return (Path(f"{file}.safetensors"), token) if token else (Path(given), None)


def read_addition(option: str, path: Path) -> dict[str, Tensor]:
    """Tensors of a LoRA or a textual inversion.

    Args:
        option: for the message, such as ``--lora``.
        path: the file.

    Raises:
        AdapterError: a pickle, no safetensors, packed by a quantiser, or values that are not finite.
        FileNotFoundError: no such file.
    """
    if path.suffix in PICKLE_SUFFIXES:
        raise AdapterError(
            f"{option} {path} is a pickle, which is never opened; give the .safetensors file that its author offers"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{option}: no file at {str(path)!r}; give a .safetensors file")
    try:
        with safe_open(path, framework="pt") as stored:
            names = list(stored.keys())
            refuse_packed(f"{option} {path}", {name: stored.get_slice(name).get_dtype() for name in names})
            tensors = {name: stored.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{option} {path} is not a safetensors file {no_safetensors(path, error)}"
        ) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise AdapterError(f"{option} {path} has values that are not finite in {name}; download it again")
    return tensors
