"""Adds to docs/results/sdxl-full-size.json what the export of SDXL at its true size and one denoiser call take.

    python docs/scripts/sdxl_full_size.py FOLDER --precision fp32 --resolution 1024

The weights are random. FOLDER, on a disk with room (`estimated`), gets the bundle, which draws and is then removed.
Peaks are of private memory, sampled. Each picture is drawn in a process of its own: reference, one step, decode. A
stage's seconds do not hold the opening of its graph.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.process.sampler import MemorySampler
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.bundle.contract import Precision
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sessions.profiles import Profile

RESULT = Path(__file__).parents[1] / "results" / "sdxl-full-size.json"
MARGIN_S = 0.05


def exported(architecture: str, out: Path, precision: Precision, pixels: int) -> dict[str, Any]:
    """One export by the command, measured from outside."""
    command = [sys.executable, "-m", "dreamcache.runtime.cli", "export", "--architecture", architecture]
    command += [
        "--precision",
        precision,
        "--resolution",
        str(pixels),
        "--attention",
        "mha",
        "--out",
        str(out),
    ]
    started = time.monotonic()
    with subprocess.Popen(command) as process:
        sampler = MemorySampler(process.pid).start()
        if process.wait() != 0:
            raise SystemExit(f"the export ended with status {process.returncode}")
        peak = sampler.stop()
    return {"seconds": round(time.monotonic() - started, 1), "private_mb": round(peak.private_mb, 1)}


def drawn(bundle: Path, profile: Profile) -> list[dict[str, Any]]:
    """Seconds and private memory of each stage of a picture in one step, in this process."""
    sampler = MemorySampler(os.getpid()).start()
    timed: list[tuple[str, float, float]] = []

    def observe(stage: str, seconds: float) -> None:
        timed.append((stage, time.monotonic(), seconds))

    runner = Pipeline.load(bundle, check_hashes=False, profile=profile, observe=observe)
    side = runner.contract.architecture.image_height
    picture = np.full((side, side, 3), 255, np.uint8)
    picture[side // 4 : -side // 4, side // 3 : -side // 3] = (200, 40, 60)
    subject = runner.cache(picture)
    runner.generate("a toy robot on the beach", subject, steps=1, guidance_mode="none", seed=0)
    sampler.stop()

    def peak_mb(start: float, end: float) -> float:
        return round(max(one.private_mb for one in sampler.readings if start <= one.at_s <= end), 1)

    return [
        {
            "stage": stage,
            "seconds": round(seconds, 2),
            "private_mb": peak_mb(end - seconds - MARGIN_S, end),
        }
        for stage, end, seconds in timed
    ]


def drawn_apart(bundle: Path, profile: Profile) -> list[dict[str, Any]]:
    """`drawn` in a process of its own."""
    child = [sys.executable, __file__, str(bundle), "--draw", profile]
    found = subprocess.run(child, check=True, capture_output=True, text=True).stdout
    return list(json.loads(found.splitlines()[-1]))


def sizes(bundle: Path) -> dict[str, float]:
    """Of each part of a bundle, in MB."""
    found: dict[str, float] = {}
    for name, record in open_bundle(bundle, check_hashes=False).contract.files.items():
        part = name.split("/")[0]
        found[part] = round(found.get(part, 0.0) + record.size / 1e6, 1)
    return found | {"all": round(sum(found.values()), 1)}


def measure(architecture: str, folder: Path, precision: Precision, pixels: int) -> dict[str, Any]:
    """The record of one precision."""
    # Brings PyTorch, whose memory is no part of a picture's.
    from dreamcache.export.resources import estimate_needs, size_of_architecture

    size = size_of_architecture(architecture)
    needs = estimate_needs(size, precision, pixels**2)
    out = folder / f"{architecture}-{precision}"
    host = describe_host().model_dump(mode="json")
    try:
        export = exported(architecture, out, precision, pixels)
        return {
            "architecture": architecture,
            "precision": precision,
            "picture": [pixels, pixels],
            "weights": "random",
            "host": host,
            "versions": library_versions() | {"torch": version("torch")},
            "settings": [runner_settings(profile=profile) for profile in get_args(Profile)],
            "parameters": {
                "unet": size.unet,
                "adapters": size.adapters,
                "text": size.text_encoder,
                "vae": size.vae,
            },
            "estimated": {"disk_mb": round(needs.disk / 1e6, 1), "private_mb": round(needs.memory / 1e6, 1)},
            "export": export,
            "parity_db": open_bundle(out, check_hashes=False).contract.parity.psnr_db,
            "files_mb": sizes(out),
            "picture_in_one_step": {profile: drawn_apart(out, profile) for profile in get_args(Profile)},
        }
    finally:
        shutil.rmtree(out, ignore_errors=True)


def main() -> None:
    """Measure and write the record; other precisions keep theirs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="fp16", choices=get_args(Precision))
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--architecture", default="sdxl")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--draw", choices=get_args(Profile))
    given = parser.parse_args()
    if given.draw:
        print(json.dumps(drawn(given.folder, given.draw)))
        return
    kept = json.loads(given.json.read_text(encoding="utf-8")) if given.json.is_file() else []
    row = measure(given.architecture, given.folder, given.precision, given.resolution)
    rows = [one for one in kept if one["precision"] != given.precision] + [row]
    given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
