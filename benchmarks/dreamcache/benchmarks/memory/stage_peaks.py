"""Measure each stage's peak of private memory, and fit the runner's memory factors to such peaks.

python -m dreamcache.benchmarks.memory.stage_peaks BUNDLE --profile memory >> peaks.jsonl    (one profile a process)
python -m dreamcache.benchmarks.memory.stage_peaks --fit peaks.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from dreamcache.benchmarks.memory.fit_factors import MeasuredPeak, fitted_lines
from dreamcache.benchmarks.process.sampler import MemoryPeak, MemorySampler
from dreamcache.runtime.budgets.plan import Stage, stage_quantities
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sessions.profiles import PROFILES, Profile, check_profile
from dreamcache.runtime.sessions.system_memory import MB


def measure_stage_peaks(
    bundle: Path, profile: Profile, threads: int | None = None, steps: int = 2
) -> Iterator[tuple[Stage, bool, MeasuredPeak]]:
    """Stage, whether the VAE was decoded in strips, and the peak; in a fresh process they are the stage's own."""
    Pipeline.load(bundle, profile=profile, threads=threads, check_hashes=False).embed({"prompt": ""})
    pipeline = Pipeline.load(bundle, profile=profile, threads=threads, check_hashes=False)
    contract, shape = pipeline.contract, pipeline.contract.architecture
    white = Image.new("RGB", (shape.reference_side, shape.reference_side), "white")
    latent = np.zeros(shape.latent_shape, np.float32)

    def sampler() -> MemorySampler:
        return MemorySampler(os.getpid()).start()

    def measured(stage: Stage, peak: MemoryPeak, tiled: bool = False) -> tuple[Stage, bool, MeasuredPeak]:
        quantities = stage_quantities(contract, stage, tiled=tiled)
        return stage, tiled, MeasuredPeak(profile, contract.precision, quantities, peak.private_mb * MB)

    running = sampler()
    pipeline.embed({"prompt": "a toy", "null": ""})
    yield measured("text", running.stop())
    running = sampler()
    pipeline.encode(white)
    yield measured("vae_encode", running.stop())
    running = sampler()
    with pipeline.sessions.open("cache") as graph:
        graph.run({"latent": np.zeros(shape.reference_latent_shape, np.float32)})
    yield measured("cache", running.stop())
    running = sampler()
    for _ in pipeline.denoise("a toy", steps=steps, seed=0):
        pass
    yield measured("denoise", running.stop())
    for tiled in (False, True) if contract.graphs.vae_decoder_head is not None else (False,):
        running = sampler()
        pipeline.decode(latent, tiled)
        yield measured("vae_decode", running.stop(), tiled)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one bundle in one profile, or fit to files of such lines."""
    parser = argparse.ArgumentParser(description="Peaks of private memory by stage.")
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--profile", default="speed", choices=PROFILES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fit", nargs="+", type=Path, default=[])
    asked = parser.parse_args(argv)
    if asked.bundle is None:
        for line in fitted_lines(asked.fit):
            print(line)
        return
    for stage, tiled, peak in measure_stage_peaks(asked.bundle, check_profile(asked.profile), asked.threads):
        print(
            json.dumps({"bundle": asked.bundle.name, "stage": stage, "tiled": tiled} | asdict(peak)),
            flush=True,
        )


if __name__ == "__main__":
    main()
