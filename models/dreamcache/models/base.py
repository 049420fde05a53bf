"""The base model: a Stable Diffusion folder in the diffusers layout, loaded part by part.

Only safetensors weights are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

MINI_DIR = Path(__file__).parent / "weights" / "mini"
"""The shipped miniature: a diffusers folder and, beside it, its trained adapters."""

MINI_ADAPTERS = MINI_DIR / "adapters.safetensors"

_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Base:
    """A text-to-image model in its parts, all in float32 and in evaluation mode.

    Attributes:
        scheduler: a DDIM scheduler with the folder's noise schedule and prediction type.
        path: the diffusers folder it came from; None for a model made in memory.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    path: Path | None

    @property
    def text_length(self) -> int:
        """Tokens of a prompt embedding."""
        return int(self.text_encoder.config.max_position_embeddings)

    @property
    def vae_factor(self) -> int:
        """Pixels a latent cell stands for, along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompt embeddings [b, n, c]; longer prompts are cut at the text encoder's length."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            return_tensors="pt",
        )
        return cast(Tensor, self.text_encoder(tokens.input_ids.to(self.text_encoder.device))[0])

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] in -1..1 to scaled latents [b, z, h, w]: the mean, so that it is deterministic."""
        mean = self.vae.encode(pixels).latent_dist.mean
        return cast(Tensor, (mean - latent_shift(self.vae)) * self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latent: Tensor) -> Tensor:
        """Scaled latents [b, z, h, w] to pixels [b, 3, H, W], about -1..1 and not clipped."""
        unscaled = latent / self.vae.config.scaling_factor + latent_shift(self.vae)
        return cast(Tensor, self.vae.decode(unscaled).sample)


def latent_shift(vae: AutoencoderKL) -> float:
    """The VAE's shift factor, which most configs leave out."""
    shift = vae.config.shift_factor
    return 0.0 if shift is None else float(shift)


def load_base(source: str | Path, device: str | torch.device = "cpu") -> Base:
    """Load a base from a diffusers folder, a model id of the Hugging Face Hub, or ``mini``.

    Raises:
        FileNotFoundError: the folder lacks a part, or the source is neither a folder nor a model id.
        OSError: a part cannot be read (diffusers and transformers say which).
    """
    path = resolve_base(source)
    missing = [part for part in _PARTS if not (path / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{path} lacks {', '.join(missing)}; expected a Stable Diffusion folder of diffusers"
        )
    weights: dict[str, Any] = {"use_safetensors": True, "torch_dtype": torch.float32}
    # transformers has renamed the argument that diffusers still calls torch_dtype.
    text_weights: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32}
    vae = AutoencoderKL.from_pretrained(path / "vae", **weights)
    text_encoder = CLIPTextModel.from_pretrained(path / "text_encoder", **text_weights)
    unet = UNet2DConditionModel.from_pretrained(path / "unet", **weights)
    for model in (vae, text_encoder, unet):
        model.to(device).eval().requires_grad_(False)
    return Base(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(path / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_config(DDIMScheduler.load_config(path / "scheduler")),
        path=path,
    )


def resolve_base(source: str | Path) -> Path:
    """The folder behind a source; a model id is downloaded (its safetensors parts alone).

    Raises:
        FileNotFoundError: neither ``mini``, nor a folder, nor the form of a model id.
    """
    if str(source) == "mini":
        return MINI_DIR
    path = Path(source)
    if path.is_dir():
        return path
    if isinstance(source, str) and source.count("/") == 1 and not source.startswith((".", "/")):
        patterns = ["model_index.json"]
        patterns += [f"{part}/{name}" for part in _PARTS for name in ("*.json", "*.txt")]
        patterns += [f"{part}/*model.safetensors" for part in _PARTS]
        return Path(snapshot_download(source, allow_patterns=patterns))
    raise FileNotFoundError(
        f"no base at {source!r}; give a diffusers folder, a Hub id such as owner/name, or mini"
    )
