"""The two autoencoders that a base may have: AutoencoderKL, and AutoencoderTiny (TAESD), which approximates it.

AutoencoderTiny's scaling factor is 1: its latents are the denoiser's own. diffusers' pipeline divides and multiplies by
it as by any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor

from dreamcache.models.errors import AdapterError

Autoencoder: TypeAlias = "AutoencoderKL | AutoencoderTiny"
AUTOENCODERS: dict[str, Any] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}


def factor_of(config: Mapping[str, Any]) -> int:
    """Pixels that a latent cell stands for, along one side, by the config of an autoencoder."""
    blocks = config.get("decoder_block_out_channels") or config.get("block_out_channels") or (0,)
    return int(2 ** (len(blocks) - 1))


def encode_mean(vae: Autoencoder, pixels: Tensor) -> Tensor:
    """Unscaled latents [b, z, h, w] of pixels [b, 3, H, W] in -1..1; the mean of a distribution."""
    if isinstance(vae, AutoencoderTiny):
        return cast(Tensor, vae.encode(pixels).latents)
    return cast(Tensor, vae.encode(pixels).latent_dist.mean)


def latent_shift(vae: Autoencoder) -> float:
    """The VAE's shift factor, which most configs leave out."""
    shift = vae.config.shift_factor
    return 0.0 if shift is None else float(shift)


def check_tiny(name: str, vae: Autoencoder) -> None:
    """Raises: AdapterError for an AutoencoderTiny that does not double its side in each of as many blocks."""
    if not isinstance(vae, AutoencoderTiny):
        return
    config = vae.config
    halved, doubled = len(config.encoder_block_out_channels), len(config.decoder_block_out_channels)
    if halved != doubled or config.upsampling_scaling_factor != 2:
        raise AdapterError(
            f"the VAE of {name} halves a picture {halved - 1} times and enlarges a latent {doubled - 1} times by "
            f"{config.upsampling_scaling_factor}, expected as many times by 2; give another VAE"
        )
