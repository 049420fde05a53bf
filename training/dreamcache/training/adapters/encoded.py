"""Latents and text embeddings on disk, so that no epoch pays for them twice.

A cache is a folder named by the fingerprint of all that its numbers depend on: the data, the VAE, the text
encoder and the tokenizer, the augmentation and its seed. It holds safetensors files of 256 samples, each
written under another name and renamed; an incomplete one is encoded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamcache.models.bases.base import Base
from dreamcache.models.bases.pixels import to_tensor
from dreamcache.runtime.files import replacing
from dreamcache.runtime.progress import track
from dreamcache.training.adapters.data import Picture, Triplet, TripletSource
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.augmentation import augment_reference
from dreamcache.training.data.shards.batches import batched
from dreamcache.training.errors import DivergenceError

VERSION = 1
FILE_SAMPLES = 256
ENCODED_AT_ONCE = 8
NAMES = frozenset({"targets", "references", "text"})


class Encoded(NamedTuple):
    """targets, references: scaled latents float32 [n, z, h, w]; text: embeddings float32 [n, l, c].

    Of two subjects references are [n, 2, z, h, w].
    """

    targets: Tensor
    references: Tensor
    text: Tensor


@dataclass(frozen=True)
class Share:
    """The files that one of several processes encodes."""

    index: int = 0
    count: int = 1


def encoding_fingerprint(source: TripletSource, base: Base, preset: Preset) -> str:
    """SHA-256 over all that the encoded numbers depend on."""
    digest = hashlib.sha256()
    for name, model in (("vae", base.vae), ("text_encoder", base.text_encoder)):
        for key, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name}.{key}{list(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    settings = {
        "version": VERSION,
        "source": source.fingerprint,
        "samples": len(source),
        "resolution": source.resolution,
        "scale": float(base.vae.config.scaling_factor),
        "vocabulary": sorted(base.tokenizer.get_vocab().items()),
        "text_length": base.text_length,
        "chances": [preset.flip, preset.jitter, preset.erase],
        "variants": preset.variants,
        "seed": preset.seed,
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()


def file_path(folder: Path, number: int) -> Path:
    """Where a file of the cache lies."""
    return folder / f"encoded-{number:05d}.safetensors"


def encode(folder: Path, source: TripletSource, base: Base, preset: Preset, share: Share = Share()) -> int:
    """Encode what of this process's share is not there yet; the number of files that were.

    The source is not opened when nothing is missing.
    Raises: DivergenceError naming the first sample whose numbers are not finite.
    """
    count = -(-len(source) // FILE_SAMPLES)
    mine = range(share.index, count, share.count)
    missing = {n for n in mine if not is_encoded(file_path(folder, n), _rows(source, n), preset.variants)}
    if not missing:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    groups = track(batched(source, FILE_SAMPLES), "encoding", total=count, shown=share.index == 0)
    for number, group in enumerate(groups):
        if number in missing:
            _write(file_path(folder, number), group, number * FILE_SAMPLES, base, preset)
    return len(missing)


def is_encoded(path: Path, rows: int, variants: int) -> bool:
    """Whether a complete file of `rows` samples exists."""
    try:
        with safe_open(path, framework="pt") as file:
            shape = file.get_slice("references").get_shape()
            return set(file.keys()) == NAMES and shape[:2] == [rows, variants]
    except (SafetensorError, OSError):
        return False


class EncodedData:
    """Rows of a cache, read from mapped files as they are asked for."""

    def __init__(self, folder: Path, samples: int) -> None:
        """Raises: FileNotFoundError, or SafetensorError, when a file is not whole."""
        self._samples = samples
        self._files: list[Any] = [
            safe_open(file_path(folder, number), framework="pt")
            for number in range(-(-samples // FILE_SAMPLES))
        ]
        self._slices = [{name: file.get_slice(name) for name in NAMES} for file in self._files]
        self.latent_shape = cast(tuple[int, int, int], tuple(self._slices[0]["targets"].get_shape()[1:]))
        """(z, h, w)."""
        several = self._slices[0]["references"].get_shape()[2 : -len(self.latent_shape)]
        self.subjects = int(several[0]) if several else 1
        """References of a sample."""

    def __len__(self) -> int:
        return self._samples

    def key(self, row: int) -> str:
        """The name of a sample."""
        keys = json.loads(self._files[row // FILE_SAMPLES].metadata()["keys"])
        return str(keys[row % FILE_SAMPLES])

    def take(self, rows: Sequence[int], variants: Sequence[int]) -> Encoded:
        """These samples, each with that one of its augmented references."""
        parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for row, variant in zip(rows, variants, strict=True):
            number, place = divmod(row, FILE_SAMPLES)
            slices = self._slices[number]
            parts[0].append(slices["targets"][place])
            parts[1].append(slices["references"][place, variant])
            parts[2].append(slices["text"][place])
        return Encoded(*(torch.stack([value.float() for value in part]) for part in parts))


def _encoded_at_once(base: Base) -> int:
    return ENCODED_AT_ONCE if next(base.vae.parameters()).device.type == "cpu" else FILE_SAMPLES


def _rows(source: TripletSource, number: int) -> int:
    return min(FILE_SAMPLES, len(source) - number * FILE_SAMPLES)


def _write(path: Path, group: list[Triplet], start: int, base: Base, preset: Preset) -> None:
    parts: dict[str, list[Tensor]] = {name: [] for name in sorted(NAMES)}
    at_once = _encoded_at_once(base)
    for first in range(0, len(group), at_once):
        part = group[first : first + at_once]
        references = [
            augmented
            for i, sample in enumerate(part)
            for variant in range(preset.variants)
            for augmented in _augmented(sample, [preset.seed, start + first + i, variant], preset)
        ]
        several = part[0].reference.shape[:-3]
        encoded = {
            "targets": _latents(base, [sample.target for sample in part]),
            "references": _by_sample(_latents(base, references), (preset.variants, *several)),
            "text": base.encode_text([sample.caption for sample in part]).half().cpu(),
        }
        for name, tensor in encoded.items():
            for sample, numbers in zip(part, tensor, strict=True):
                if not bool(torch.isfinite(numbers).all()):
                    raise DivergenceError(
                        f"sample {sample.key}: finite {name} are expected from the base, received nan or inf; "
                        "mend the base's VAE or text encoder, or take the sample away"
                    )
            parts[name].append(tensor)
    with replacing(path, overwrite=True) as partial:
        save_file(
            {name: torch.cat(part).contiguous() for name, part in parts.items()},
            partial,
            {"keys": json.dumps([sample.key for sample in group])},
        )


def _augmented(sample: Triplet, seed: Sequence[int], preset: Preset) -> list[Picture]:
    """The references of a sample, augmented one after the other."""
    rng = np.random.default_rng(seed)
    pictures = sample.reference.reshape(-1, *sample.reference.shape[-3:])
    return [augment_reference(picture, rng, preset.chances) for picture in pictures]


def _by_sample(latents: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """[n * variants, z, h, w] to [n, variants, z, h, w], or with the subjects between."""
    return latents.reshape(-1, *sizes, *latents.shape[1:])


def _latents(base: Base, pictures: Sequence[Picture]) -> Tensor:
    """Pictures uint8 [r, r, 3] as scaled latents float16 [n, z, h, w]."""
    weight = next(base.vae.parameters())
    parts = []
    at_once = _encoded_at_once(base)
    for first in range(0, len(pictures), at_once):
        values: NDArray[np.uint8] = np.stack(pictures[first : first + at_once])
        pixels = to_tensor(values).to(weight.device, weight.dtype)
        parts.append(base.encode_images(pixels).half().cpu())
    return torch.cat(parts)
