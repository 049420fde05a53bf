"""Latents of rendered samples, so that no epoch pays for rendering and encoding twice.

For each shard of samples one of latents: targets, augmented references (float16 [n, z, h, w], unscaled) and
the tokens of the captions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from transformers import CLIPTokenizer

from dreamcache.training.augmentation import augment_reference
from dreamcache.training.autoencoder import to_tensor
from dreamcache.training.console import stderr
from dreamcache.training.dataset import SHARD, read_shards, write_npz


@dataclass(frozen=True)
class Latents:
    """`targets`, `references` float16 [n, z, h, w], multiplied by `scale`; `tokens` int64 [n, length].

    Of samples with two toys `references` are [n, 2, z, h, w].
    """

    targets: Tensor
    references: Tensor
    tokens: Tensor
    scale: float


def _encode(vae: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 50) -> NDArray[np.float16]:
    weight = next(vae.parameters())
    with torch.no_grad(), torch.autocast(weight.device.type, torch.bfloat16):
        parts = [
            vae.encode(to_tensor(pictures[i : i + batch]).to(weight.device, weight.dtype)).latent_dist.mode()
            for i in range(0, len(pictures), batch)
        ]
    return torch.cat(parts).half().cpu().numpy()


def encode_dataset(
    data: Path, directory: Path, samples: int, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> None:
    """Encode the first `samples`; shards that exist are kept. Augmentation is seeded by the shard."""
    shards = read_shards(data, samples)
    for shard, batch in enumerate(track(shards, "encoding", total=-(-samples // SHARD), console=stderr)):
        path = directory / f"latents-{shard:05d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([7, shard])
        every = batch.references.reshape(-1, *batch.references.shape[-3:])
        references = _encode(vae, np.stack([augment_reference(picture, rng) for picture in every]))
        tokens = tokenizer(
            [str(c) for c in batch.captions], padding="max_length", truncation=True, return_tensors="np"
        ).input_ids
        write_npz(
            path,
            targets=_encode(vae, batch.targets),
            references=references.reshape(*batch.references.shape[:-3], *references.shape[1:]),
            tokens=tokens.astype(np.int64),
        )


def latent_scale(directory: Path) -> float:
    """1 / standard deviation of the first shard's target latents: what scales them to unit variance."""
    with np.load(directory / "latents-00000.npz", allow_pickle=False) as arrays:
        return float(1 / arrays["targets"].astype(np.float32).std())


def load_latents(directory: Path, samples: int, scale: float | None = None) -> Latents:
    """Read the first `samples` into memory. scale: None is that of their own first shard.

    Raises FileNotFoundError naming the shard that is missing.
    """
    shards = [directory / f"latents-{i:05d}.npz" for i in range(-(-samples // SHARD))]
    parts: dict[str, list[NDArray[np.generic]]] = {"targets": [], "references": [], "tokens": []}
    for path in shards:
        if not path.exists():
            raise FileNotFoundError(f"no {path}: run `dreamcache train latents --samples {samples}` first")
        with np.load(path, allow_pickle=False) as arrays:
            for name, part in parts.items():
                part.append(arrays[name])
    scale = latent_scale(directory) if scale is None else scale
    joined = {name: torch.from_numpy(np.concatenate(part)) for name, part in parts.items()}
    return Latents(joined["targets"] * scale, joined["references"] * scale, joined["tokens"], scale)


def with_pairs(latents: Latents, pairs: Latents | None) -> Latents:
    """Targets and tokens of both kinds of sample, for training that reads no reference; theirs are left out."""
    if pairs is None:
        return latents
    targets = torch.cat([latents.targets, pairs.targets])
    return Latents(targets, targets[:0], torch.cat([latents.tokens, pairs.tokens]), latents.scale)
