"""Stage 1: the miniature's AutoencoderKL, 128 × 128 pixels to 16 × 16 × 16 latents.

Loss: L1 + MSE with the toy's pixels weighted up, a perceptual distance, and a small KL term (Rombach et al. 2022,
section 3.1). All layers are convolutions, so it learns from crops as well as from whole pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from numpy.typing import NDArray
from torch import Tensor, nn

from dreamcache.models.bases.pixels import to_pictures, to_tensor
from dreamcache.training.device import autocast, training_device
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.miniature.plots import save_sheet
from dreamcache.training.miniature.stages.perceptual import FEATURES, train_features
from dreamcache.training.world.dataset import Batch, draw_batch, read_shards

LATENT_CHANNELS = 16
SIZE = 128
CROP = 64
LAST_WHOLE = 0.3
ON_TOY = 0.75
TOY_WEIGHT = 8.0
PERCEPTUAL_WEIGHT = 0.5
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
        sample_size=SIZE,
        mid_block_add_attention=False,  # it would see another number of tokens than in training on crops
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
    weight = next(vae.parameters())
    errors = []
    with torch.no_grad():
        for start in range(0, len(batch.targets), 32):
            pictures = to_tensor(batch.targets[start : start + 32]).to(weight.device, weight.dtype)
            decoded = vae.decode(vae.encode(pictures).latent_dist.mode()).sample
            errors.append(((decoded.float().clamp(-1, 1) - pictures.float()) / 2).square().mean(1).cpu())
    error = torch.cat(errors)
    mask = torch.from_numpy(batch.masks).float() / 255
    toy = float((error * mask).sum() / mask.sum())
    return -10 * float(np.log10(float(error.mean()))), -10 * float(np.log10(toy))


Crop = tuple[int, slice, slice]
"""Row, rows of pixels and columns of pixels of a picture."""


def toy_boxes(masks: NDArray[np.uint8]) -> Tensor:
    """First and last row and column of the toys' pixels, int64 [n, 2, 2] of masks [n, h, w]; of all for none."""
    sides = []
    for axis in (2, 1):
        there: NDArray[np.bool_] = np.any(masks > 0, axis)
        sides.append(np.stack([there.argmax(1), there.shape[1] - 1 - there[:, ::-1].argmax(1)], 1))
    return torch.from_numpy(np.stack(sides, 1))


def draw_crops(size: int, schedule: Schedule, boxes: Tensor, step: int) -> list[Crop]:
    """What a step trains on: every second one `batch` crops, the others as many pixels of whole pictures.

    Crops bring more pictures a step, and three of four have their centre in the toy's box [n, 2, 2], where the
    detail is. On crops alone a network learns that every pixel is near an edge, and whole pictures come out with a
    frame; so the last steps, where the rate falls, see whole pictures only.
    """
    generator = step_generator(schedule.seed, step)
    whole = size <= CROP or step % 2 == 1 or step >= schedule.steps * (1 - LAST_WHOLE)
    side = size if whole else CROP
    count = max(1, schedule.batch * CROP**2 // side**2)
    chosen = torch.randint(len(boxes), (count,), generator=generator)
    anywhere = torch.rand(count, 1, 1, generator=generator) >= ON_TOY
    first, last = torch.where(anywhere, torch.tensor([0, size - 1]), boxes[chosen]).unbind(-1)
    centres = first + torch.rand(count, 2, generator=generator) * (last - first)
    corners = (centres.round().long() - side // 2).clamp(0, size - side).tolist()
    return [
        (row, slice(y, y + side), slice(x, x + side))
        for row, (y, x) in zip(chosen.tolist(), corners, strict=True)
    ]


def train_autoencoder(
    data: Path, directory: Path, schedule: Schedule, samples: int, features: Schedule = FEATURES
) -> AutoencoderKL:
    """Train from rendered shards and return the averaged weights; continues where `directory` stands.

    features: of the classifier that the perceptual distance reads.
    """
    device = training_device()
    shards = list(read_shards(data, samples))
    pictures = np.concatenate([b.targets for b in shards] + [b.references for b in shards])
    # references stand on white: everything that is not is the toy
    masks = np.concatenate(
        [b.masks for b in shards] + [(b.references.min(-1) < 250).astype(np.uint8) * 255 for b in shards]
    )
    labels = np.concatenate([b.labels for b in shards])
    perceived = train_features(pictures[: len(labels)], labels, directory / "features", features)
    torch.manual_seed(schedule.seed)
    vae = make_autoencoder().to(device)
    run = Run(directory, dict(vae.named_parameters()), schedule)
    boxes = toy_boxes(masks)

    def loss(step: int) -> Tensor:
        crops = draw_crops(pictures.shape[1], schedule, boxes, step)
        target = to_tensor(np.stack([pictures[crop] for crop in crops])).to(device)
        mask = torch.from_numpy(np.stack([masks[crop] for crop in crops])).to(device)
        with autocast(device):
            posterior = vae.encode(target).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=step_generator(schedule.seed + 1, step))
            decoded = vae.decode(posterior.mean + posterior.std * noise.to(device)).sample
            half = -(-len(crops) // 2)  # the other half of the time goes into more steps
            distance = perceived.distance(decoded[:half], target[:half])
        error = (decoded.float() - target) * (1 + TOY_WEIGHT / 255 * mask.float()[:, None]).sqrt()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        pixels = error.abs().mean() + error.square().mean()
        total: Tensor = pixels + PERCEPTUAL_WEIGHT * distance + KL_WEIGHT * kl
        return total

    size = pictures.shape[1]
    shown = draw_batch(schedule.seed, 100, 32, held_out=True, size=size)

    def sheet(path: Path) -> None:
        with torch.no_grad():
            x = to_tensor(shown.targets[:10]).to(device)
            decoded = vae.decode(vae.encode(x).latent_dist.mode()).sample
        save_sheet([list(shown.targets[:10]), list(to_pictures(decoded))], path)
        print(path.name, "psnr_db", reconstruction_db(vae, shown), flush=True)

    run.train(loss, sheet, sheet_every=2 * schedule.checkpoint_every)
    return vae
