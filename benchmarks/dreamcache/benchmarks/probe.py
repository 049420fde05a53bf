"""One personalised picture in a fresh process: the time of each stage and the memory of all of them.

    python -m dreamcache.benchmarks.probe BUNDLE --reference toy.png --prompt "a toy robot on the beach"

prints one JSON object. It is what `dreamcache demo` shows; `dreamcache bench` measures by a protocol.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dreamcache.benchmarks.process.child import LoadSettings, MeasuredProcess
from dreamcache.benchmarks.process.sampler import MemorySampler


def probe(bundle: Path, reference: Path, prompt: str, steps: int, repeats: int = 5) -> dict[str, Any]:
    """Cache once and draw `repeats` pictures in a fresh process, whose memory is sampled from here.

    Returns latency_ms by stage, the median where it ran often ("step" is one denoising step with all its guidance
    branches, "text" both prompts, "total" one picture of a cached subject), the samples of each, and memory_mb, see
    `memory.MemoryPeak`.
    Raises MeasurementError with the process's own words when it fails.
    """
    with MeasuredProcess() as process:
        sampler = MemorySampler(process.pid).start()
        taken = {"load": [process.load(bundle, LoadSettings())]}
        taken |= process.ask("cache", reference=str(reference))
        for seed in range(repeats):
            taken.setdefault("total", []).extend(
                process.ask("picture", prompt=prompt, steps=steps, seed=seed)
            )
            for stage, begin, end in process.ask("stages"):
                taken.setdefault(stage, []).append((end - begin) * 1e3)
        peak = sampler.stop()
    return {
        "latency_ms": {stage: round(statistics.median(values), 3) for stage, values in taken.items()},
        "samples": {stage: len(values) for stage, values in taken.items()},
        "steps": steps,
        "memory_mb": asdict(peak),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print the measurement as JSON."""
    parser = argparse.ArgumentParser(prog="python -m dreamcache.benchmarks.probe", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(argv)
    json.dump(probe(given.bundle, given.reference, given.prompt, given.steps, given.repeats), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
