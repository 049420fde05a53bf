"""What every processor must compute alike, written on one machine and compared with another's.

    python arm64_figures.py make OUT.npz FP32_BUNDLE INT8_BUNDLE
    python arm64_figures.py compare X86.npz ARM.npz

Equal to the bit: noise of a seed, a prepared reference, tokens, every sampler's steps. Nearly: the final
latent of 4 guided steps, by the bounds below.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.contract import SchedulerKind
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.sampling.denoiser import Denoiser, Latent
from dreamcache.runtime.sampling.device_check import check_device
from dreamcache.runtime.sampling.guidance import Branch, Guidance
from dreamcache.runtime.sampling.noise import noise_source
from dreamcache.runtime.sampling.prompts import PromptTokenizer
from dreamcache.runtime.sampling.schedulers import make_scheduler
from dreamcache.runtime.sampling.trajectory import trajectory

MIN_FP32_DB = 110.0
MIN_INT8_DB = 30.0
MAX_INT8_LOSS_DB = 3.0
"""How much further from x86's fp32 than x86's own int8."""
_PROMPT = "a toy robot in the snow, at night"


class Halving:
    """Stands for a denoiser: a prediction is a part of the latent, exact in binary."""

    has_reference = True

    def predict(
        self, latent: Latent, _timestep: float, branches: Sequence[Branch], _step: int
    ) -> list[Latent]:
        """One for each branch."""
        return [latent / np.float32(2 ** (1 + place)) for place, _ in enumerate(branches)]


def picture() -> NDArray[np.uint8]:
    """A disc with a square eye on white, [200, 160, 3]."""
    rows, columns = np.mgrid[:200, :160]
    image = np.full((200, 160, 3), 255, np.uint8)
    image[(rows - 100) ** 2 + (columns - 80) ** 2 < 60**2] = (200, 60, 40)
    image[80:100, 60:80] = (20, 30, 90)
    return image


def same_everywhere(pipeline: Pipeline) -> dict[str, str]:
    """SHA-256 by name."""
    contract = pipeline.contract
    shape = contract.architecture.latent_shape
    noise = noise_source(7, shape)
    guidance = Guidance("dual", 5.0, 2.0, 1.0)
    latents = [
        step.latent.tobytes()
        for kind in get_args(SchedulerKind)
        for step in trajectory(
            cast(Denoiser, Halving()),
            make_scheduler(contract.scheduler, kind, 4),
            guidance,
            noise_source(7, shape),
        )
    ]
    prepared = prepare_reference(picture(), None, size=contract.architecture.reference_side)
    tokens = PromptTokenizer.of(pipeline.bundle).encode(_PROMPT)
    found = {
        "noise": noise().tobytes() + noise().tobytes(),
        "samplers": b"".join(latents),
        "reference": prepared.image.tobytes(),
        "tokens": repr(tokens).encode(),
    }
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def final_latent(pipeline: Pipeline) -> NDArray[np.float32]:
    """After 4 guided steps with one thread, whose sums have one order."""
    subject = pipeline.cache(picture())
    *_, last = pipeline.denoise(_PROMPT, subject, steps=4, seed=7)
    return last.latent


def golden_db(pipeline: Pipeline) -> dict[str, float]:
    """Decibels from PyTorch by graph, on the bundle's golden tensors."""
    found = check_device(pipeline.sessions)
    assert found is not None
    return found.psnr_db


def make(out: str, fp32: str, int8: str) -> None:
    """Write the figures of this machine."""
    exact, rounded = Pipeline.load(fp32, threads=1), Pipeline.load(int8, threads=1)
    latents = {"fp32": final_latent(exact), "int8": final_latent(rounded)}
    golden = {
        f"golden {name} {graph}": db
        for name, pipeline in (("fp32", exact), ("int8", rounded))
        for graph, db in golden_db(pipeline).items()
    }
    arrays: dict[str, Any] = {**same_everywhere(exact), **latents, **golden}
    np.savez(out, **arrays)
    print(f"{platform.machine()}: {Path(out).name}")


def compare(x86: str, arm: str) -> None:
    """Prints a table of graphs. Raises: SystemExit with what is out of bounds."""
    here, there = np.load(x86), np.load(arm)
    print("| graph | fp32: x86 | fp32: arm64 | int8: x86 | int8: arm64 |\n|---|---|---|---|---|")
    for graph in (
        name.removeprefix("golden fp32 ") for name in here.files if name.startswith("golden fp32 ")
    ):
        row = [f"{one[f'golden {kind} {graph}']:.0f}" for kind in ("fp32", "int8") for one in (here, there)]
        print(f"| {graph} | {' | '.join(row)} |")
    faults = [
        f"{name} differs" for name in here.files if here[name].dtype.kind == "U" and here[name] != there[name]
    ]
    exact = psnr_db(here["fp32"], there["fp32"])
    own, other = (psnr_db(here["fp32"], one["int8"]) for one in (here, there))
    print(f"fp32 {exact:.1f} dB from x86's; int8 {other:.1f} dB from x86's fp32, x86's own {own:.1f}")
    if exact < MIN_FP32_DB:
        faults.append(f"fp32: at least {MIN_FP32_DB:g} dB are expected, received {exact:.1f}")
    if other < max(MIN_INT8_DB, own - MAX_INT8_LOSS_DB):
        faults.append(
            f"int8: at least {max(MIN_INT8_DB, own - MAX_INT8_LOSS_DB):.1f} dB are expected, received {other:.1f}"
        )
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
