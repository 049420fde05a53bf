"""Writes docs/results/vae-taesd.json: TAESD's decoder beside Stable Diffusion's, in time and memory, weights random.

    dreamcache export --architecture sd15 --vae taesd --out BUNDLE
    python docs/scripts/taesd_decoder.py BUNDLE

Stable Diffusion's decoder alone is exported beside it. Times alternate in one process; private memory is that of a
fresh process for each graph, the most above what the process had before the session was opened.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dreamcache.benchmarks.host import describe_host
from dreamcache.benchmarks.process.sampler import MemorySampler
from dreamcache.export.graphs.session import open_exported
from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.sessions.system_memory import read_memory

RESULT = Path(__file__).parents[1] / "results" / "vae-taesd.json"


def run_once(folder: Path, spec: GraphSpec) -> dict[str, float]:
    """Private memory in MB of opening a graph and running it once."""
    before = read_memory(os.getpid()).private_mb
    running = MemorySampler(os.getpid()).start()
    open_exported("measured", folder / spec.file, spec).run(inputs(spec))
    return {"private_mb": round(running.stop().private_mb - before, 1)}


def inputs(spec: GraphSpec) -> dict[str, Any]:
    """Noise of the declared shapes."""
    random = np.random.default_rng(0)
    return {one.name: random.standard_normal(one.shape).astype(one.dtype) for one in spec.inputs}


def measured_apart(folder: Path, spec: GraphSpec) -> float:
    """`run_once` in a process of its own."""
    child = [sys.executable, __file__, str(folder), "--graph", spec.model_dump_json()]
    found = subprocess.run(child, check=True, capture_output=True, text=True).stdout
    return float(json.loads(found.splitlines()[-1])["private_mb"])


def plain_decoder(folder: Path, height: int, width: int) -> GraphSpec:
    """Stable Diffusion's decoder with random weights, exported into a folder."""
    from diffusers import AutoencoderKL

    from dreamcache.export.parts.decoder import export_decoder
    from dreamcache.models.bases.architectures import VAE_CONFIG

    return export_decoder(AutoencoderKL(**VAE_CONFIG).eval(), folder, height, width, "mha").whole


def measure(bundle: Path, rounds: int) -> dict[str, Any]:
    """The record."""
    contract = open_bundle(bundle).contract
    shape = contract.architecture
    with TemporaryDirectory() as name:
        plain = plain_decoder(Path(name), shape.latent_height, shape.latent_width)
        places = {
            "AutoencoderKL decoder": (Path(name), plain),
            "AutoencoderTiny decoder": (bundle, contract.graphs.vae_decoder),
        }
        memory = {title: measured_apart(*place) for title, place in places.items()}
        sessions = {
            title: open_exported(title, folder / spec.file, spec, pack=True)
            for title, (folder, spec) in places.items()
        }
        feeds = {title: inputs(spec) for title, (_, spec) in places.items()}
        times: dict[str, list[float]] = {title: [] for title in sessions}
        for turn in range(rounds + 1):
            for title, session in sessions.items():
                begun = time.process_time()
                session.run(feeds[title])
                if turn:  # the first warms up
                    times[title].append(round(time.process_time() - begun, 3))
    medians = {title: statistics.median(found) for title, found in times.items()}
    return {
        "architecture": contract.architecture.name,
        "picture": [shape.image_height, shape.image_width],
        "precision": contract.precision,
        "host": describe_host().model_dump(mode="json"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu_seconds": times,
        "median_cpu_seconds": medians,
        "private_mb": memory,
        "decode_time_ratio": round(medians["AutoencoderKL decoder"] / medians["AutoencoderTiny decoder"], 1),
        "parity_db": {
            part: round(contract.parity.psnr_db[part], 1) for part in ("vae_encoder", "vae_decoder")
        },
    }


def main() -> None:
    """Measure, or be the fresh process of one graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graph", type=GraphSpec.model_validate_json)
    given = parser.parse_args()
    if given.graph is not None:
        print(json.dumps(run_once(given.bundle, given.graph)))
        return
    record = measure(given.bundle, given.rounds)
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
