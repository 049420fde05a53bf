"""Stage 1, second half: the decoder alone, from latents that are a little off, to pictures with the edges of renders.

Squared error and L1 are least where an edge of uncertain place is blurred. So beside them stands the local energy of
edges: the root mean square of the Laplacian in windows of 9 × 9 pixels, which a blurred edge has too little of, and a
displaced one has. At the end the weights go a part of the way (Wortsman et al. 2022, arXiv 2109.01903). The encoder
stays, and with it everything that learned from its latents; noise on them stands for a denoiser's errors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.device import autocast
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.miniature.stages.autoencoder import TOY_WEIGHT, draw_crops, toy_boxes
from dreamcache.training.miniature.stages.perceptual import Features
from dreamcache.training.world.dataset import read_shards

ENERGY_WEIGHT = 0.2
PERCEPTUAL_WEIGHT = 0.5
LATENT_NOISE = 0.1
"""Largest standard deviation, of latents whose own is 1."""
WINDOW = 9
SHARE = 0.45
"""Of the way from the decoder that was to the one that was learnt: as much sharpness as costs 0.1 dB."""


def edge_energy(pictures: Tensor) -> Tensor:
    """Root mean square of the Laplacian of the grey values around each pixel, [n, 1, h, w] of [n, 3, h, w]."""
    kernel = pictures.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
    grey = pictures.mean(1, keepdim=True)
    laplacian = functional.conv2d(functional.pad(grey, (1, 1, 1, 1), mode="replicate"), kernel)
    mean = functional.avg_pool2d(
        laplacian.square(), WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False
    )
    return (mean + 1e-6).sqrt()


def train_decoder(
    vae: AutoencoderKL, data: Path, samples: int, directory: Path, schedule: Schedule, perceived: Features
) -> None:
    """Train the decoder of a whitened autoencoder in place; continues where `directory` stands."""
    device = next(vae.parameters()).device
    shards = list(read_shards(data, samples))
    pictures = np.concatenate([b.targets for b in shards])
    masks = np.concatenate([b.masks for b in shards])
    boxes = toy_boxes(masks)
    vae.requires_grad_(requires_grad=False)
    trained = {
        name: parameter
        for name, parameter in vae.named_parameters()
        if name.startswith(("decoder.", "post_quant_conv."))
    }
    for parameter in trained.values():
        parameter.requires_grad_()
    before = [parameter.detach().clone() for parameter in trained.values()]
    run = Run(directory, trained, schedule)

    def loss(step: int) -> Tensor:
        crops = draw_crops(pictures.shape[1], schedule, boxes, step)
        target = to_tensor(np.stack([pictures[crop] for crop in crops])).to(device)
        mask = torch.from_numpy(np.stack([masks[crop] for crop in crops])).to(device)
        generator = step_generator(schedule.seed, step)
        with autocast(device):
            with torch.no_grad():
                latent = vae.encode(target).latent_dist.mode().float().cpu()
            noise = torch.randn(latent.shape, generator=generator)
            scale = LATENT_NOISE * torch.rand(len(crops), 1, 1, 1, generator=generator)
            decoded = vae.decode((latent + scale * noise).to(device)).sample
            distance = perceived.distance(decoded, target)
        decoded = decoded.float()
        weight = 1 + TOY_WEIGHT / 255 * mask.float()[:, None]
        error = (decoded - target) * weight.sqrt()
        energy = (edge_energy(decoded) - edge_energy(target)).abs() * weight
        pixels = error.abs().mean() + error.square().mean()
        total: Tensor = pixels + PERCEPTUAL_WEIGHT * distance + ENERGY_WEIGHT * energy.mean()
        return total

    run.train(loss)
    with torch.no_grad():
        torch._foreach_lerp_(list(trained.values()), before, 1 - SHARE)
    vae.requires_grad_(requires_grad=True)
