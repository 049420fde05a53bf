"""Pictures of the stock model: the runner's at strength 0 or PyTorch's, and diffusers' from the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from dreamcache.models.bases.base import Base
from dreamcache.models.walk.unet import walk
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.noise import noise_source

PROMPT, SEED, STEPS, GUIDANCE = "a robot", 5, 20, 7.5
EQUAL_DB, FEW_STEPS = 55.0, 4


def picture_db(runner: Pipeline, theirs: Any, subject: Any = None, **options: Any) -> float:
    """dB of the runner's 8-bit picture against diffusers', DDIM under classic guidance; rounding leaves 59.

    theirs: a text-to-image pipeline of diffusers. options: of the runner alone.
    """
    shape = runner.contract.architecture
    theirs.set_progress_bar_config(disable=True)
    # What DDIM takes and another class of scheduler does not say, as the exporter reads it.
    stated = {"clip_sample": False, "set_alpha_to_one": False, **theirs.scheduler.config}
    stated.pop("_use_default_values", None)
    theirs.scheduler = DDIMScheduler.from_config(stated)
    drawn: NDArray[np.float32] = theirs(
        PROMPT,
        height=shape.image_height,
        width=shape.image_width,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=torch.from_numpy(noise_source(SEED, shape.latent_shape)()),
        output_type="np",
    ).images[0]
    asked = {"strength": 0.0, **options}
    ours = runner.generate(
        PROMPT,
        subject,
        steps=STEPS,
        seed=SEED,
        scheduler="ddim",
        guidance_mode="classic",
        guidance_scale=GUIDANCE,
        **asked,
    )
    error = float(np.mean((np.asarray(ours, np.float64) / 255 - drawn) ** 2))
    return -10 * float(np.log10(error)) if error else 99.0


@torch.no_grad()
def decibels_from_diffusers(base: Base, pipeline: Any) -> float:
    """How close a base's picture in PyTorch is to a pipeline's, whose scheduler is DDIM; in 4 steps."""
    side = int(base.unet.config.sample_size)
    noise = torch.from_numpy(noise_source(SEED, (1, 4, side, side))())
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(
        PROMPT,
        num_inference_steps=FEW_STEPS,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type="np",
    ).images[0]
    latent, text = noise, base.encode_text(["", PROMPT])
    base.scheduler.set_timesteps(FEW_STEPS)
    for timestep in base.scheduler.timesteps:
        null, prompted = walk(base.unet, latent.repeat(2, 1, 1, 1), timestep, text).chunk(2)
        latent = base.scheduler.step(null + GUIDANCE * (prompted - null), timestep, latent).prev_sample
    ours = torch.clamp(base.decode_latents(latent) / 2 + 0.5, 0, 1)[0].permute(1, 2, 0).numpy()
    error = float(np.mean((ours - drawn) ** 2))
    return min(99.0, -10 * float(np.log10(error))) if error else 99.0
