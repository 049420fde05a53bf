"""Held-out samples on fixed noise: loss, loss with a wrong reference, loss of the base, and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.models.bases.base import Base
from dreamcache.models.bases.pixels import to_pictures
from dreamcache.models.caching import cache_clean
from dreamcache.models.pipeline import CACHE_NOISE_SEED, denoise_batch, draw_noise
from dreamcache.training.adapters.encoded import Encoded, EncodedData
from dreamcache.training.adapters.objective import AdapterLoss, plain_products
from dreamcache.training.adapters.order import Order
from dreamcache.training.adapters.preset import Preset
from dreamcache.training.miniature.plots import save_sheet

VALIDATION_SEED = 1_234_567


@contextmanager
def averaged(parameters: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the parameters are the averaged ones, where there are any; after, their own again."""
    kept = {name: parameters[name].detach().clone() for name in average}
    with torch.no_grad():
        for name, value in average.items():
            parameters[name].copy_(value)
        try:
            yield
        finally:
            for name, value in kept.items():
                parameters[name].copy_(value)


@torch.no_grad()
def validate(loss: AdapterLoss, data: EncodedData, rows: NDArray[np.int64], batch: int) -> dict[str, float]:
    """The mean loss over held-out rows with their references, with each other's, and of the base alone.

    Noise and timesteps are the same each time, timesteps evenly spread over all.
    """
    device, count = loss.null.device, len(rows)
    steps = int(loss.scheduler.config.num_train_timesteps)
    order = Order(VALIDATION_SEED, rows, data.latent_shape, 1, 0.0, steps)
    drawn = order.draw(0, count)
    spread = ((torch.arange(count) + 0.5) * steps / count).long()
    others = [drawn.rows[(i + 1) % count] for i in range(count)]
    sums = {"validation": 0.0, "validation_swapped": 0.0, "validation_stock": 0.0}
    for first in range(0, count, batch):
        part = slice(first, first + batch)
        rows_now, variants = drawn.rows[part], drawn.variants[part]
        now = drawn._replace(
            rows=rows_now,
            variants=variants,
            timesteps=spread[part],
            dropped=drawn.dropped[part],
            noise=drawn.noise[part],
            reference_noise=drawn.reference_noise[part],
        )
        encoded = on_device(data.take(rows_now, variants), device)
        wrong = data.take(others[part], variants).references.to(device)
        sums["validation"] += float(loss(encoded, now).sum())
        sums["validation_swapped"] += float(loss(encoded._replace(references=wrong), now).sum())
        sums["validation_stock"] += float(loss(encoded, now, stock=True).sum())
    return {name: value / count for name, value in sums.items()}


def on_device(encoded: Encoded, device: torch.device) -> Encoded:
    """The same on the device."""
    return Encoded(*(tensor.to(device, non_blocking=True) for tensor in encoded))


@torch.no_grad()
def draw_validation_sheet(
    path: Path, loss: AdapterLoss, base: Base, data: EncodedData, rows: NDArray[np.int64], preset: Preset
) -> None:
    """One line for each row: its reference, its target, and the picture made from reference and caption.

    The autoencoder lies on the device only meanwhile.
    """
    device = loss.null.device
    encoded = on_device(data.take(rows.tolist(), [0] * len(rows)), device)
    latents = _sample(loss, encoded, data.latent_shape, preset)
    base.vae.to(device)
    columns = [_pictures(base, part) for part in (encoded.references, encoded.targets, latents)]
    base.vae.to("cpu")
    save_sheet([[column[i] for column in columns] for i in range(len(rows))], path, zoom=1)


def _sample(loss: AdapterLoss, encoded: Encoded, shape: tuple[int, int, int], preset: Preset) -> Tensor:
    """Scaled latents [n, z, h, w] by DDIM with dual guidance; sample i starts from the noise of seed i."""
    device, count = loss.null.device, len(encoded.targets)
    conditioned, scheduler = loss.conditioned, loss.scheduler
    dtype = conditioned.unet.dtype
    noise = torch.from_numpy(draw_noise(CACHE_NOISE_SEED, shape)).to(device).expand_as(encoded.references)
    with plain_products(device):
        cache = cache_clean(
            conditioned.unet,
            conditioned.sites,
            scheduler,
            conditioned.config,
            encoded.references,
            noise,
            loss.cache_text,
        )
        *_, last = denoise_batch(
            conditioned,
            scheduler,
            torch.from_numpy(draw_noise(0, shape, count)).to(device),
            encoded.text.to(dtype),
            loss.null.to(dtype),
            cache,
            steps=preset.sheet_steps,
            guidance_mode=preset.guidance_mode,
            guidance_scale=preset.guidance,
            reference_guidance_scale=preset.reference_guidance,
        )
    return last.latent


def _pictures(base: Base, latents: Tensor) -> NDArray[np.uint8]:
    return to_pictures(torch.cat([base.decode_latents(latent[None]) for latent in latents]))
