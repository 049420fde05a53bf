"""Pictures of the stock model: the runner's at strength 0, and diffusers' from the same noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sampling.noise import noise_source

PROMPT, SEED, STEPS, GUIDANCE = "a robot", 5, 20, 7.5


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
