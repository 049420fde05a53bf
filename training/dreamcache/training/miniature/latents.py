"""Latents of rendered samples, so that no epoch pays for rendering and encoding twice.

For each shard of samples one of latents: targets (float16 [n, z, h, w], unscaled) and the tokens of the captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.runtime.progress import track
from dreamcache.training.device import autocast
from dreamcache.training.world.dataset import SHARD, Of, read_batch, write_npz

FOLDERS: dict[Of, tuple[str, str]] = {
    "one": ("data", "latents"), "two": ("pairs", "pair-latents"), "stylised": ("stylised", "stylised-latents"),
}  # fmt: skip
"""Where a run keeps samples of each kind, and their latents."""


@dataclass(frozen=True)
class Latents:
    """`targets` float16 [n, z, h, w], multiplied by `scale`; `tokens` of the captions, int64 [n, length]."""

    targets: Tensor
    tokens: Tensor
    scale: float


def _encode(vae: AutoencoderKL, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    weight = next(vae.parameters())
    batch = 16 if weight.device.type == "cpu" else 250
    with torch.no_grad(), autocast(weight.device):
        parts = [
            vae.encode(to_tensor(pictures[i : i + batch]).to(weight.device, weight.dtype)).latent_dist.mode()
            for i in range(0, len(pictures), batch)
        ]
    return torch.cat(parts).half().cpu().numpy()


def encode_dataset(
    data: Path, directory: Path, samples: int, vae: AutoencoderKL, tokenizer: CLIPTokenizer
) -> None:
    """Encode the first `samples`; shards that exist are kept."""
    for shard in track(range(-(-samples // SHARD)), "encoding"):
        if (path := _latents_path(directory, shard)).exists():
            continue
        batch = read_batch(data, shard, samples)
        captions = [str(caption) for caption in batch.captions]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="np").input_ids
        write_npz(path, targets=_encode(vae, batch.targets), tokens=tokens.astype(np.int64))


def latent_scale(directory: Path) -> float:
    """1 / standard deviation of the first shard's target latents: what scales them to unit variance."""
    with np.load(_latents_path(directory, 0), allow_pickle=False) as arrays:
        return float(1 / arrays["targets"].astype(np.float32).std())


def load_latents(directory: Path, samples: int, scale: float | None = None) -> Latents:
    """Read the first `samples` into memory.

    scale: None is that of their own first shard. Raises FileNotFoundError naming the shard that is missing.
    """
    targets, tokens = [], []
    for shard in range(-(-samples // SHARD)):
        path = _latents_path(directory, shard)
        if not path.exists():
            raise FileNotFoundError(
                f"no {path}: run `dreamcache train miniature latents --samples {samples}` first"
            )
        with np.load(path, allow_pickle=False) as arrays:
            targets.append(arrays["targets"])
            tokens.append(arrays["tokens"])
    scale = latent_scale(directory) if scale is None else scale
    scaled = torch.from_numpy(np.concatenate(targets)) * scale
    return Latents(scaled, torch.from_numpy(np.concatenate(tokens)), scale)


def join_samples(several: Sequence[Latents]) -> Latents:
    """Several as one, at the scale of the first."""
    return Latents(
        torch.cat([latents.targets for latents in several]),
        torch.cat([latents.tokens for latents in several]),
        several[0].scale,
    )


def _latents_path(directory: Path, shard: int) -> Path:
    return directory / f"latents-{shard:05d}.npz"
