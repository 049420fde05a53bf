"""How far diffusers is from itself on a tiny SDXL with and without clipped samples: the same picture, other roundings.

    PYTHONPATH=tests/support python docs/scripts/clipped_sdxl.py --json docs/results/clipped-sdxl.json

DDIM, 20 steps, classic guidance 7.5, random weights. Attention is written in two ways (`AttnProcessor`), a second
thread adds up in another order, and the first latent is made 1 + 1e-7 times as large.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from tiny_models import write_tiny_sdxl

from dreamcache.runtime.bundle.parity import psnr_db

STEPS, GUIDANCE, SEEDS = 20, 7.5, (3, 4, 5)
CHANGES: dict[str, dict[str, Any]] = {
    "attention written out": {"written_out": True},
    "two threads": {"threads": 2},
    "latent times 1 + 1e-7": {"factor": 1 + 1e-7},
}


def draw(
    base: Path, seed: int, clip: bool, *, written_out: bool = False, threads: int = 1, factor: float = 1.0
) -> NDArray[np.float32]:
    """Values of a picture [1, 3, h, w], 0 to 1."""
    torch.set_num_threads(threads)
    pipe = StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=clip)
    if written_out:
        pipe.unet.set_attn_processor(AttnProcessor())
        pipe.vae.set_attn_processor(AttnProcessor())
    side = pipe.unet.config.sample_size
    latents = torch.randn((1, 4, side, side), generator=torch.Generator().manual_seed(seed)) * factor
    drawn: torch.Tensor = pipe(
        "a robot",
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=latents,
        height=side * pipe.vae_scale_factor,
        width=side * pipe.vae_scale_factor,
        output_type="pt",
    ).images
    return drawn.float().numpy()


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        base = write_tiny_sdxl(Path(folder) / "sdxl")
        for clip in (False, True):
            for seed in SEEDS:
                plain = draw(base, seed, clip)
                db = {
                    name: round(psnr_db(plain, draw(base, seed, clip, **change)), 1)
                    for name, change in CHANGES.items()
                }
                rows.append({"clip_sample": clip, "seed": seed, "db": db})
                print(rows[-1], flush=True)
    versions = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    given.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
