"""Textual inversions joined to a base's text encoder and tokenizer, as diffusers' `load_textual_inversion` does it.

A file of several vectors brings as many tokens, ``<t>``, ``<t>_1`` and so on, and a prompt's ``<t>`` stands for all of
them. Tokens are added as diffusers' tokenizer, which is transformers' slow one, reads them: in this very spelling.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken
from torch import Tensor

from dreamcache.models.bases.joined.additions import JoinedFile, digest_of, read_addition, split_token
from dreamcache.models.bases.parts.together import Parts
from dreamcache.models.errors import AdapterError

# What A1111 and its kin call the vectors of a file; the token is then the file's name.
_NAMELESS = "emb_params"
_SDXL = ("clip_l", "clip_g")


def join_inversion(parts: Parts, given: str) -> JoinedFile:
    """Add one textual inversion to the text encoder and the tokenizer of a base, in place.

    Args:
        parts: of the base.
        given: ``FILE`` or ``FILE:token``; without a token it is the file's own, or the file's name.

    Raises:
        AdapterError: another kind of file, of another width, broken, or a token that the tokenizer has.
        FileNotFoundError: no such file.
    """
    path, token = split_token(given)
    vectors, stated = _vectors(path)
    name = token or stated
    tokens = [name, *(f"{name}_{i}" for i in range(1, len(vectors)))]
    table = parts.text_encoder.get_input_embeddings().weight
    if vectors.shape[1] != table.shape[1]:
        raise AdapterError(
            f"--textual-inversion {path} has vectors of width {vectors.shape[1]}, and the base's text encoder takes "
            f"{table.shape[1]}; give one that was trained on this kind of base"
        )
    known = parts.tokenizer.get_vocab()
    if not name or name != name.strip() or any(" " in token for token in tokens):
        raise AdapterError(
            f"--textual-inversion {path}: a token without spaces is expected, received {name!r}"
        )
    if taken := [token for token in (*tokens, f"{name}_1") if token in known]:
        raise AdapterError(
            f"--textual-inversion {path}: the tokenizer has {taken[0]!r} already; name another token: {path}:<token>"
        )
    first = len(parts.tokenizer)
    parts.text_encoder.resize_token_embeddings(first + len(tokens), mean_resizing=False)
    parts.tokenizer.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    with torch.no_grad():
        parts.text_encoder.get_input_embeddings().weight[first:] = vectors
    parts.text_encoder.eval().requires_grad_(False)
    return JoinedFile("textual_inversion", path.name, digest_of([path]), tokens=tuple(tokens))


def _vectors(path: Path) -> tuple[Tensor, str]:
    """The vectors [n, c] of a file and the token that they belong to."""
    tensors = read_addition("--textual-inversion", path)
    if any(key in tensors for key in _SDXL):
        raise AdapterError(
            f"--textual-inversion {path} is made for SDXL's two text encoders ({', '.join(tensors)}); give one for "
            "Stable Diffusion 1.x or 2.x"
        )
    if len(tensors) != 1:
        raise AdapterError(
            f"--textual-inversion {path} holds {len(tensors)} tensors, expected one: the vectors of one token"
        )
    ((key, tensor),) = tensors.items()
    vectors = tensor.float() if tensor.ndim != 1 else tensor.float()[None]
    if vectors.ndim != 2 or not len(vectors):
        raise AdapterError(
            f"--textual-inversion {path} holds a tensor {list(tensor.shape)}, expected vectors [n, width]"
        )
    return vectors, path.stem if key == _NAMELESS else key
