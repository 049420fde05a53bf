"""Models that synthetic data needs: found in a folder or fetched from the Hub, safetensors alone, told apart by
fingerprint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dreamcache.models.bases.files import pickles_in
from dreamcache.models.bases.hub import fetch_files
from dreamcache.training.data.shards.index import ModelRecord
from dreamcache.training.errors import WeightsError

_EDGE_BYTES = 1 << 20
# What transformers folders hold besides weights; Llama's `original/` copies and other frameworks' are left.
_TRANSFORMERS = ["*.json", "*.txt", "*.jinja", "tokenizer.model", "*.safetensors"]


@dataclass(frozen=True)
class ModelKind:
    """A part that a model plays. `entry`: the file that tells a folder of it; `option`: where it is given."""

    role: str
    default: str
    entry: str
    option: str

    @property
    def how_to_fetch(self) -> str:
        """What to say where it is missing."""
        folder = f"models/{self.default.rpartition('/')[2]}"
        return f"fetch one with `hf download {self.default} --local-dir {folder}` and give {self.option} {folder}"


LANGUAGE_MODEL = ModelKind("language model", "meta-llama/Llama-3.2-3B-Instruct", "config.json", "--model")
PIPELINE = ModelKind(
    "text-to-image pipeline", "stable-diffusion-v1-5/stable-diffusion-v1-5", "model_index.json", "--model"
)
DETECTOR = ModelKind("detector", "IDEA-Research/grounding-dino-base", "config.json", "--detector")
SEGMENTER = ModelKind("segmenter", "facebook/sam-vit-huge", "config.json", "--sam")


def find_model(kind: ModelKind, source: str) -> Path:
    """The folder of a model: as given, or of a Hub id (downloaded, or from the Hub's cache).

    Raises: WeightsError when it is absent, incomplete or a pickle; says what to fetch and where to put it.
    """
    folder = Path(source)
    if not folder.is_dir():
        if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise WeightsError(f"no {kind.role} at {source!r}: a folder is expected; {kind.how_to_fetch}")
        folder = _fetch(kind, source)
    if not (folder / kind.entry).is_file():
        raise WeightsError(
            f"{source}: a {kind.role} with {kind.entry} is expected, received a folder without it; {kind.how_to_fetch}"
        )
    if not any(folder.rglob("*.safetensors")):
        raise WeightsError(
            f"{source}: weights as .safetensors are expected, received "
            f"{'pickles, which are never opened here' if pickles_in(folder) else 'none'}; {kind.how_to_fetch}"
        )
    return folder


def _fetch(kind: ModelKind, model_id: str) -> Path:
    mend = f"where its licence asks for it, accept it there and `hf auth login`, or {kind.how_to_fetch}"
    try:
        if kind.entry != "model_index.json":
            return fetch_files(model_id, mend, allow_patterns=_TRANSFORMERS, ignore_patterns=["original/*"])
        from diffusers import DiffusionPipeline

        return fetch_files(model_id, mend, DiffusionPipeline.download, use_safetensors=True)
    except FileNotFoundError as error:
        raise WeightsError(f"no folder {model_id!r}, and {error}") from error


def describe_model(kind: ModelKind, source: str, path: Path) -> ModelRecord:
    """What an index says of a model that lies at a folder or file."""
    return ModelRecord(role=kind.role, source=source, fingerprint=fingerprint_files(path))


def fingerprint_files(path: Path) -> str:
    """SHA-256 over the names, sizes, beginnings and ends (1 MiB each) of a model's files.

    It tells one model from another in a second, where hashing all of a pipeline would take a minute in each of
    hundreds of processes; it does not hold against somebody who wants two models to look alike.
    """
    digest = hashlib.sha256()
    root = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        name = file.relative_to(root).as_posix()
        weights = file.suffix in (".safetensors", ".onnx", ".data", ".json", ".txt", ".model", ".jinja")
        if not weights or name.startswith(".cache/"):
            continue
        size = file.stat().st_size
        digest.update(f"{name}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_EDGE_BYTES))
            if size > _EDGE_BYTES:
                stream.seek(max(_EDGE_BYTES, size - _EDGE_BYTES))
                digest.update(stream.read(_EDGE_BYTES))
    return digest.hexdigest()
