"""Measure each stage's peak of private memory, and fit the factors of `memory_factors.py` to such peaks.

    python -m dreamcache.benchmarks.memory.stage_peaks BUNDLE --profile memory >> peaks.jsonl    (one profile a process)
    python -m dreamcache.benchmarks.memory.stage_peaks --fit peaks.jsonl

Linux alone: private memory is what /proc/self/smaps_rollup calls anonymous.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from PIL import Image

from dreamcache.runtime.memory.factors import FACTORS, MeasuredPeak, Quantities, fit_factors
from dreamcache.runtime.memory.plan import MB, Stage, stage_quantities
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sessions.profiles import PROFILES, Profile, check_profile

_INTERVAL_S = 0.004


def private_bytes() -> int:
    """Anonymous memory of this process now."""
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/smaps_rollup has no line for anonymous memory")


@contextmanager
def sampled_peak() -> Iterator[list[int]]:
    """A list that holds the peak of private bytes once the block has ended."""
    stopped, peak = threading.Event(), [private_bytes()]

    def sample() -> None:
        while not stopped.wait(_INTERVAL_S):
            peak[0] = max(peak[0], private_bytes())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stopped.set()
        thread.join()


def measure_stages(
    bundle: Path, profile: Profile, threads: int | None = None, steps: int = 2
) -> Iterator[tuple[Stage, bool, MeasuredPeak]]:
    """Stage, whether the VAE was decoded in strips, and the peak; in a fresh process they are the stage's own."""
    Pipeline.load(bundle, profile=profile, threads=threads, check_hashes=False).embed({"prompt": ""})
    pipeline = Pipeline.load(bundle, profile=profile, threads=threads, check_hashes=False)
    contract, shape = pipeline.contract, pipeline.contract.architecture
    white = Image.new("RGB", (shape.image_width, shape.image_height), "white")
    latent = np.zeros(shape.latent_shape, np.float32)

    def measured(stage: Stage, peak: list[int], tiled: bool = False) -> tuple[Stage, bool, MeasuredPeak]:
        quantities = stage_quantities(contract, stage, tiled=tiled)
        return stage, tiled, MeasuredPeak(profile, contract.precision, quantities, float(peak[0]))

    with sampled_peak() as peak:
        pipeline.embed({"prompt": "a toy", "null": ""})
    yield measured("text", peak)
    with sampled_peak() as peak:
        pipeline.encode(white)
    yield measured("vae_encode", peak)
    with sampled_peak() as peak, pipeline.sessions.open("cache") as graph:
        graph.run({"latent": latent})
    yield measured("cache", peak)
    with sampled_peak() as peak:
        for _ in pipeline.denoise("a toy", steps=steps, seed=0):
            pass
    yield measured("denoise", peak)
    for tiled in (False, True) if contract.graphs.vae_decoder_head is not None else (False,):
        with sampled_peak() as peak:
            pipeline.decode(latent, tiled)
        yield measured("vae_decode", peak, tiled)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one bundle in one profile, or fit to files of such lines."""
    parser = argparse.ArgumentParser(description="Peaks of private memory by stage.")
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--profile", default="speed", choices=PROFILES)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--fit", nargs="+", type=Path, default=[])
    asked = parser.parse_args(argv)
    if asked.bundle is not None:
        for stage, tiled, peak in measure_stages(asked.bundle, check_profile(asked.profile), asked.threads):
            named = {"bundle": asked.bundle.name, "stage": stage, "tiled": tiled}
            print(json.dumps(named | asdict(peak)), flush=True)
        return
    records = [json.loads(line) for path in asked.fit for line in path.read_text("utf-8").splitlines()]
    peaks = [
        MeasuredPeak(**{**record, "quantities": Quantities(**record["quantities"])})
        for record in (
            {field.name: record[field.name] for field in fields(MeasuredPeak)} for record in records
        )
    ]
    for way in sorted({(peak.profile, peak.precision) for peak in peaks}):
        factors, present = fit_factors(peaks, *way), FACTORS[way[0]][way[1]]
        print(f"{' '.join(way)}: {factors}")
        for record, peak in zip(records, peaks, strict=True):
            if (peak.profile, peak.precision) == way:
                now, then = present.peak(peak.quantities), factors.peak(peak.quantities)
                print(
                    f"  {record['bundle']} {record['stage']}{' in strips' if record['tiled'] else ''}: measured "
                    f"{peak.private_bytes / MB:.0f} MB, predicted {now / MB:.0f}, fitted {then / MB:.0f}"
                )


if __name__ == "__main__":
    main()
