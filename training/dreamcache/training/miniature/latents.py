"""Latents of rendered samples, so that no epoch pays for rendering and encoding twice.

For each shard of samples one of latents: targets, augmented references (float16 [n, z, h, w], unscaled) and
the tokens of the captions and of the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTokenizer

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.runtime.progress import track
from dreamcache.training.augmentation import augment_reference
from dreamcache.training.device import autocast
from dreamcache.training.world.dataset import SHARD, Of, read_shards, write_npz

FOLDERS: dict[Of, tuple[str, str]] = {
    "one": ("data", "latents"), "two": ("pairs", "pair-latents"), "stylised": ("stylised", "stylised-latents"),
}  # fmt: skip
"""Where a run keeps samples of each kind, and their latents."""


@dataclass(frozen=True)
class Latents:
    """`targets`, `references` float16 [n, z, h, w], multiplied by `scale`; `tokens` of the captions and
    `prompts`, int64 [n, length].

    Of samples with two toys `references` are [n, 2, z, h, w].
    """

    targets: Tensor
    references: Tensor
    tokens: Tensor
    prompts: Tensor
    scale: float

    def prompted(self) -> Latents:
        """The same with the prompts in the place of the captions."""
        return replace(self, tokens=self.prompts)


def _encode(vae: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 50) -> NDArray[np.float16]:
    weight = next(vae.parameters())
    with torch.no_grad(), autocast(weight.device):
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
    for shard, batch in enumerate(track(shards, "encoding", total=-(-samples // SHARD))):
        path = directory / f"latents-{shard:05d}.npz"
        if path.exists():
            continue
        rng = np.random.default_rng([7, shard])
        every = batch.references.reshape(-1, *batch.references.shape[-3:])
        references = _encode(vae, np.stack([augment_reference(picture, rng) for picture in every]))
        tokens, prompts = (
            tokenizer(
                [str(text) for text in texts], padding="max_length", truncation=True, return_tensors="np"
            )
            for texts in (batch.captions, batch.prompts)
        )
        write_npz(
            path,
            targets=_encode(vae, batch.targets),
            references=references.reshape(*batch.references.shape[:-3], *references.shape[1:]),
            tokens=tokens.input_ids.astype(np.int64),
            prompts=prompts.input_ids.astype(np.int64),
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
    parts: dict[str, list[NDArray[np.generic]]] = {
        "targets": [],
        "references": [],
        "tokens": [],
        "prompts": [],
    }
    for path in shards:
        if not path.exists():
            raise FileNotFoundError(
                f"no {path}: run `dreamcache train miniature latents --samples {samples}` first"
            )
        with np.load(path, allow_pickle=False) as arrays:
            for name, part in parts.items():
                part.append(arrays[name])
    scale = latent_scale(directory) if scale is None else scale
    joined = {name: torch.from_numpy(np.concatenate(part)) for name, part in parts.items()}
    joined |= {name: joined[name] * scale for name in ("targets", "references")}
    return Latents(**joined, scale=scale)


def join_samples(several: Sequence[Latents]) -> Latents:
    """Targets, captions and prompts of several, for training that reads no reference; theirs are left out."""
    targets = torch.cat([latents.targets for latents in several])
    return Latents(
        targets=targets,
        references=targets[:0],
        tokens=torch.cat([latents.tokens for latents in several]),
        prompts=torch.cat([latents.prompts for latents in several]),
        scale=several[0].scale,
    )
