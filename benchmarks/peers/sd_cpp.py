"""stable-diffusion.cpp on the plain model: its Python package reads the diffusers folder."""

from __future__ import annotations

import importlib
import json
import os
import time
from pathlib import Path

from peers.job import PROMPTS, Stages, answer, read_job, size_of

PARTS = ("text_encoder", "unet", "vae")


def main() -> None:
    """One job; two branches in a step, as it takes them for any cfg_scale above 1."""
    job = read_job()
    library = importlib.import_module("stable_diffusion_cpp")
    stages = Stages()
    base = Path(job.base)
    model = stages.time(
        "load",
        lambda: library.StableDiffusion(
            model_path=str(base),
            wtype="f16",
            # Left to itself it counts physical cores, and takes one thread of a virtual machine's two.
            n_threads=os.cpu_count() if job.threads is None else job.threads,
            diffusion_flash_attn=True,
            verbose=False,
        ),
    )
    unet = json.loads((base / "unet" / "config.json").read_text(encoding="utf-8"))
    vae = json.loads((base / "vae" / "config.json").read_text(encoding="utf-8"))
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    ends: list[float] = []
    # Its steps take so long that two samples say enough.
    steps = min(job.repeats, 2) + 1

    def note_end(step: int, of: int, seconds: float) -> None:
        """Loading and tiled decoding report progress too, in steps of their own."""
        del seconds
        if of == steps and step > 0:
            ends.append(time.perf_counter())

    prompt, null = PROMPTS
    begin = time.perf_counter()
    model.generate_image(
        prompt=prompt,
        negative_prompt=null,
        width=side,
        height=side,
        cfg_scale=7.5,
        sample_steps=steps,
        sample_method="euler",
        progress_callback=note_end,
    )
    # Its weights are read with the first picture.
    stages.split(ends, time.perf_counter() - begin)
    answer(
        job,
        stages,
        size_of(*(base / part for part in PARTS)) // 2,
        ("stable-diffusion-cpp-python",),
        ["weights converted to f16 while loading, megabytes are half of the fp32 folder's; flash attention"],
    )


if __name__ == "__main__":
    main()
