"""What fewer denoiser calls gain and cost: CPU time of a picture, and its final latent against the exact one's.

    python docs/scripts/fewer_calls.py BUNDLE --reference PICTURE --json docs/results/fewer-calls.json

Every row makes the same pictures from the same noise, one thread, graphs open. Rows take turns seed by seed; the
time is the median over seeds of a row's CPU time over the exact row's.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.settings import Options
from dreamcache.runtime.subject import Subject

PROMPT = "a toy robot on the beach"
STEPS = 20
EXACT = "exact"
ROWS: dict[str, Options] = {
    EXACT: Options(),
    "--guidance-interval 0.2 0.8": Options(guidance_interval=(0.2, 0.8)),
    "--guidance-interval 0 0.6": Options(guidance_interval=(0.0, 0.6)),
    "--step-cache 2": Options(step_cache=2),
    "--step-cache 3": Options(step_cache=3),
    "--step-cache 5": Options(step_cache=5),
    "--step-cache 3 --guidance-interval 0 0.6": Options(step_cache=3, guidance_interval=(0.0, 0.6)),
}


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, required=True, help="a picture of the subject")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    pipe = Pipeline.load(given.bundle, keep_sessions=True, threads=1)
    subject = pipe.cache(Image.open(given.reference))
    for options in ROWS.values():  # opens every graph
        _final(pipe, subject, {**options, "steps": 2})
    seconds: dict[str, list[float]] = {name: [] for name in ROWS}
    latents: dict[str, list[NDArray[np.float32]]] = {name: [] for name in ROWS}
    for seed in range(given.seeds):
        for name, options in ROWS.items():
            started = time.process_time()
            latents[name].append(_final(pipe, subject, {**options, "steps": STEPS, "seed": seed}))
            seconds[name].append(time.process_time() - started)
    rows = {
        name: {
            "cpu_seconds": [round(value, 4) for value in seconds[name]],
            "cpu_time": round(median(np.divide(seconds[name], seconds[EXACT])), 3),
            "latent_db": round(psnr_db(np.stack(latents[EXACT]), np.stack(latents[name])), 2),
        }
        for name in ROWS
    }
    record = {
        "steps": STEPS,
        "seeds": given.seeds,
        "prompt": PROMPT,
        "runner": runner_settings(),
        "guidance": pipe.contract.guidance.mode,
        "rows": rows,
    }
    given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _final(pipe: Pipeline, subject: Subject, options: Options) -> NDArray[np.float32]:
    """The final latent [1, z, h, w]."""
    *_, last = pipe.denoise(PROMPT, subject, **options)
    return last.latent


if __name__ == "__main__":
    main()
