"""Latents of rendered samples, so that no epoch pays for rendering and encoding twice.

For each shard of samples one of latents: targets (float16 [n, z, h, w], unscaled) and the tokens of the captions and
of the prompts; where references are asked for, one more of them, augmented.
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
from dreamcache.training.world.dataset import SHARD, Of, read_batch, write_npz

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
    data: Path,
    directory: Path,
    samples: int,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    *,
    references: bool = True,
) -> None:
    """Encode the first `samples`; shards that exist are kept. Augmentation is seeded by the shard."""
    for shard in track(range(-(-samples // SHARD)), "encoding"):
        targets, others = (directory / f"{name}-{shard:05d}.npz" for name in ("latents", "references"))
        wanted = [path for path in ([targets, others] if references else [targets]) if not path.exists()]
        if not wanted:
            continue
        batch = read_batch(data, shard, samples)
        if targets in wanted:
            tokens, prompts = (
                tokenizer(
                    [str(text) for text in texts], padding="max_length", truncation=True, return_tensors="np"
                ).input_ids.astype(np.int64)
                for texts in (batch.captions, batch.prompts)
            )
            write_npz(targets, targets=_encode(vae, batch.targets), tokens=tokens, prompts=prompts)
        if others in wanted:
            rng = np.random.default_rng([7, shard])
            every = batch.references.reshape(-1, *batch.references.shape[-3:])
            encoded = _encode(vae, np.stack([augment_reference(picture, rng) for picture in every]))
            write_npz(others, references=encoded.reshape(*batch.references.shape[:-3], *encoded.shape[1:]))


def latent_scale(directory: Path) -> float:
    """1 / standard deviation of the first shard's target latents: what scales them to unit variance."""
    with np.load(directory / "latents-00000.npz", allow_pickle=False) as arrays:
        return float(1 / arrays["targets"].astype(np.float32).std())


def load_latents(
    directory: Path, samples: int, scale: float | None = None, *, references: bool = True
) -> Latents:
    """Read the first `samples` into memory, without references where none are asked for.

    scale: None is that of their own first shard. Raises FileNotFoundError naming the shard that is missing.
    """
    kinds: dict[str, tuple[str, ...]] = {"latents": ("targets", "tokens", "prompts")}
    if references:
        kinds["references"] = ("references",)
    parts: dict[str, list[NDArray[np.generic]]] = {name: [] for names in kinds.values() for name in names}
    for shard in range(-(-samples // SHARD)):
        for kind, names in kinds.items():
            path = directory / f"{kind}-{shard:05d}.npz"
            if not path.exists():
                raise FileNotFoundError(
                    f"no {path}: run `dreamcache train miniature latents --samples {samples}` first"
                )
            with np.load(path, allow_pickle=False) as arrays:
                for name in names:
                    parts[name].append(arrays[name])
    scale = latent_scale(directory) if scale is None else scale
    joined = {name: torch.from_numpy(np.concatenate(part)) for name, part in parts.items()}
    joined |= {name: joined[name] * scale for name in ("targets", "references") if name in joined}
    return Latents(**({"references": joined["targets"][:0]} | joined), scale=scale)


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
