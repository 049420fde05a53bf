"""Latents whose channels are uncorrelated and of one variance, without another picture.

A small autoencoder puts most of its variance into brightness, and a denoiser trained on such latents learns everything
else late. ZCA (Bell and Sejnowski 1997) is a linear map of the channels, so it is folded into the 1 × 1 convolutions on
either side of the latents, and its inverse undoes it before the decoder.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.world.dataset import Batch

SMALLEST_VARIANCE = 1e-4
"""Of a direction, as a share of the largest: less is noise that is not to be amplified."""


@torch.no_grad()
def whiten(vae: AutoencoderKL, batch: Batch) -> None:
    """Change `vae` in place so that the latents of the batch's targets have mean 0 and covariance 1.

    The posterior's variance is left as it was and no longer means anything: take the mode.
    """
    device = next(vae.parameters()).device
    parts = [
        vae.encode(to_tensor(batch.targets[i : i + 100]).to(device)).latent_dist.mode()
        for i in range(0, len(batch.targets), 100)
    ]
    mean, forward, back = zca(torch.cat(parts).movedim(1, -1).flatten(0, -2))
    channels = len(mean)
    encoder, decoder = vae.quant_conv, vae.post_quant_conv
    weight, bias = encoder.weight[:channels], encoder.bias[:channels]
    weight.copy_((forward @ weight.flatten(1).double()).view_as(weight))
    bias.copy_(forward @ (bias.double() - mean))
    shift = decoder.weight.flatten(1).double() @ mean
    decoder.weight.copy_((decoder.weight.flatten(1).double() @ back).view_as(decoder.weight))
    decoder.bias.add_(shift)


def zca(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [c], whitening [c, c] and its inverse of vectors [n, c], in float64."""
    mean = vectors.double().mean(0)
    variance, directions = torch.linalg.eigh(torch.cov(vectors.double().T))
    deviation = variance.clamp(min=SMALLEST_VARIANCE * float(variance.max())).sqrt()
    forward = directions @ torch.diag(1 / deviation) @ directions.T
    return mean, forward, directions @ torch.diag(deviation) @ directions.T
