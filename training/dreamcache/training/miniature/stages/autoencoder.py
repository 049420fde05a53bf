"""Stage 1: the miniature's AutoencoderKL, 64 × 64 pixels to 8 × 8 × 32 latents.

Loss: L1 + MSE with the toy's pixels weighted up, and a small KL term (Rombach et al. 2022, section 3.1; no
adversarial or perceptual term: there is no pretrained network to take one from).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from dreamcache.models.bases.pixels import to_pictures, to_tensor
from dreamcache.training.device import autocast, training_device
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.miniature.plots import save_sheet
from dreamcache.training.world.dataset import Batch, draw_batch, read_shards

LATENT_CHANNELS = 32
TOY_WEIGHT = 1.0
KL_WEIGHT = 1e-6
# log variance of the latents at the start: near deterministic, else the noise drowns the first thousand steps
FIRST_LOG_VARIANCE = -6.0


def make_autoencoder() -> AutoencoderKL:
    """The architecture, with random weights."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=(16, 32, 96, 192),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=64,
    )
    # Random default weights pass on little but brightness, and colour takes a thousand steps to come through.
    # Orthogonal convolutions around silent residual branches start as a linear projection of each patch.
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.orthogonal_(module.weight.flatten(1))
            nn.init.zeros_(cast(Tensor, module.bias))
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    with torch.no_grad():
        vae.quant_conv.weight[LATENT_CHANNELS:].zero_()
        vae.quant_conv.bias[LATENT_CHANNELS:].fill_(FIRST_LOG_VARIANCE)
    return vae


def reconstruction_db(vae: AutoencoderKL, batch: Batch) -> tuple[float, float]:
    """Reconstruction quality of targets in dB: whole picture, and the toy's pixels alone."""
    device = next(vae.parameters()).device
    with torch.no_grad():
        pictures = to_tensor(batch.targets).to(device, next(vae.parameters()).dtype)
        decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
    error = ((decoded.float().clamp(-1, 1) - pictures.float()) / 2).square().mean(1).cpu()
    mask = torch.from_numpy(batch.masks).float() / 255
    toy = float((error * mask).sum() / mask.sum())
    return -10 * float(np.log10(float(error.mean()))), -10 * float(np.log10(toy))


def train_autoencoder(data: Path, directory: Path, schedule: Schedule, samples: int) -> AutoencoderKL:
    """Train from rendered shards and return the averaged weights; continues where `directory` stands."""
    device = training_device()
    shards = list(read_shards(data, samples))
    pictures = np.concatenate([b.targets for b in shards] + [b.references for b in shards])
    # references stand on white: everything that is not is the toy
    masks = np.concatenate(
        [b.masks for b in shards] + [(b.references.min(-1) < 250).astype(np.uint8) * 255 for b in shards]
    )
    torch.manual_seed(schedule.seed)
    vae = make_autoencoder().to(device)
    run = Run(directory, dict(vae.named_parameters()), schedule)

    def loss(step: int) -> Tensor:
        generator = step_generator(schedule.seed, step)
        chosen = torch.randint(len(pictures), (schedule.batch,), generator=generator).numpy()
        target = to_tensor(pictures[chosen]).to(device)
        weight = 1 + TOY_WEIGHT / 255 * torch.from_numpy(masks[chosen]).to(device).float()[:, None]
        with autocast(device):
            posterior = vae.encode(target).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        error = (decoded - target) * weight.sqrt()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        total: Tensor = error.abs().mean() + error.square().mean() + KL_WEIGHT * kl
        return total

    shown = draw_batch(schedule.seed, 0, 12, held_out=True)

    def sheet(path: Path) -> None:
        with torch.no_grad():
            x = to_tensor(shown.targets).to(device)
            decoded = vae.decode(vae.encode(x).latent_dist.mode()).sample
        save_sheet([list(shown.targets), list(to_pictures(decoded))], path)
        print(
            path.name,
            "psnr_db",
            reconstruction_db(vae, draw_batch(schedule.seed, 100, 64, held_out=True)),
            flush=True,
        )

    run.train(loss, sheet, sheet_every=schedule.checkpoint_every)
    return vae
