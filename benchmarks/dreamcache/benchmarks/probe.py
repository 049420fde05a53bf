"""One personalised picture in a fresh process: the time of each stage and the memory of all of them.

    python -m dreamcache.benchmarks.probe BUNDLE --reference toy.png --prompt "a toy robot on the beach"

prints one JSON object. The worker is a process of its own that does what `dreamcache generate` does; its memory is
sampled by this process, from outside.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamcache.benchmarks.memory import MemorySampler


def work(bundle: Path, reference: Path, prompt: str, steps: int, repeats: int) -> dict[str, Any]:
    """Cache once and draw `repeats` pictures; milliseconds of each stage, the median where it ran often."""
    from dreamcache.runtime import Pipeline

    seconds: dict[str, list[float]] = {}
    loading = time.perf_counter()
    pipe = Pipeline.load(bundle, observe=lambda stage, taken: seconds.setdefault(stage, []).append(taken))
    loaded = time.perf_counter()
    subject = pipe.cache(reference)
    cached = time.perf_counter()
    pictures = []
    for seed in range(repeats):
        started = time.perf_counter()
        pipe.generate(prompt, subject, steps=steps, seed=seed)
        pictures.append(time.perf_counter() - started)
    latency = {stage: statistics.median(taken) * 1e3 for stage, taken in seconds.items()}
    latency |= {
        "load": (loaded - loading) * 1e3,
        "reference_to_subject": (cached - loaded) * 1e3,
        "total": statistics.median(pictures) * 1e3,
    }
    return {
        "latency_ms": {stage: round(value, 3) for stage, value in latency.items()},
        "samples": {stage: len(taken) for stage, taken in seconds.items()} | {"total": repeats},
        "steps": steps,
    }


def probe(bundle: Path, reference: Path, prompt: str, steps: int, repeats: int = 5) -> dict[str, Any]:
    """Run `work` in a fresh process and sample its memory.

    Returns latency_ms by stage ("step" is one denoising step with all its guidance branches, "total" one picture
    of a cached subject) and memory_mb, see `memory.MemoryPeak`.
    Raises RuntimeError with the worker's last line when it fails.
    """
    command = [
        sys.executable, "-m", "dreamcache.benchmarks.probe", str(bundle), "--reference", str(reference),
        "--prompt", prompt, "--steps", str(steps), "--repeats", str(repeats), "--worker",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as worker:
        sampler = MemorySampler(worker.pid).start()
        output, errors = worker.communicate()
        peak = sampler.stop()
    if worker.returncode != 0:
        raise RuntimeError((errors.strip().splitlines() or ["the worker failed without a word"])[-1])
    result: dict[str, Any] = json.loads(output)
    return result | {"memory_mb": asdict(peak)}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print the measurement as JSON."""
    parser = argparse.ArgumentParser(prog="python -m dreamcache.benchmarks.probe", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    run = work if given.worker else probe
    json.dump(run(given.bundle, given.reference, given.prompt, given.steps, given.repeats), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
