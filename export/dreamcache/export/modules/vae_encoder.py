"""The VAE encoder's mean as a module for export."""

from __future__ import annotations

from torch import Tensor, nn

from dreamcache.models.bases.parts.autoencoder import Autoencoder, encode_mean


class VaeMean(nn.Module):
    """The VAE encoder's mean: sample [1, 3, H, W] to latent_parameters [1, z, h, w]; nothing is drawn."""

    def __init__(self, vae: Autoencoder) -> None:
        super().__init__()
        self.vae = vae
        self.config = vae.config

    def forward(self, sample: Tensor) -> dict[str, Tensor]:
        return {"latent_parameters": encode_mean(self.vae, sample)}
