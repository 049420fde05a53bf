"""What training and drawing cost on a GPU: samples a second, the share of its peak, and one picture of 100 steps.

    python docs/scripts/gpu.py --json docs/results/gpu.json [--architecture sd15] [--batch 12] [--recompute]

Random weights of the true size: speed and memory do not depend on what they hold. Training is the paper's: frozen base
in bfloat16, adapters in float32, AdamW, encoded data in memory. The picture has dual guidance, three predictions a
step; its reference is cached first. `--base FOLDER` takes another base, `--peak TFLOPS` says the peak of a device
that is not known here. Without a GPU it runs too, for a small base, and says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from dreamcache.export.source import random_adapters
from dreamcache.models.bases.base import Base, load_base
from dreamcache.models.bases.random_base import random_base
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.training.adapters.encoded import Encoded
from dreamcache.training.adapters.objective import AdapterLoss, plain_products
from dreamcache.training.adapters.order import Order

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bfloat16 products, from NVIDIA's data sheets; the first name that the device's holds counts."""
PAPER_SECONDS, PAPER_DEVICE = 3.88, "A100"


def timed(work: Callable[[], None], device: torch.device, times: int) -> list[float]:
    """Seconds of each run."""
    found = []
    for _ in range(times):
        _finish(device)
        begin = time.perf_counter()
        work()
        _finish(device)
        found.append(time.perf_counter() - begin)
    return found


def measure_training(
    base: Base, device: torch.device, batch: int, steps: int, recompute: bool
) -> dict[str, Any]:
    """Figures of updates after two that do not count."""
    side, channels = int(base.unet.config.sample_size), int(base.unet.config.in_channels)
    null = base.encode_text([""])
    conditioned = random_adapters(base).train()
    torch.nn.Module.to(base.unet, torch.bfloat16)
    conditioned.adapters.float()
    loss = AdapterLoss(base, conditioned, null, null, recompute).to(device)
    optimizer = torch.optim.AdamW(conditioned.adapters.parameters(), lr=1e-5, fused=device.type == "cuda")
    order = Order(0, np.arange(batch), (channels, side, side), 1, 0.07)
    latents = torch.randn(2, batch, channels, side, side, device=device)
    encoded = Encoded(latents[0], latents[1], null.expand(batch, -1, -1).to(device))
    numbers = iter(range(0, 1_000_000, batch))

    def update() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            value = loss(encoded, order.draw(next(numbers), batch)).mean()
        optimizer.zero_grad(set_to_none=True)
        with plain_products(device):
            torch.autograd.backward(value)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        update()
    update()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(update, device, steps)
    median = statistics.median(seconds)
    flops = counter.get_total_flops()
    return {
        "batch": batch,
        "recompute": recompute,
        "seconds": seconds,
        "samples_per_second": batch / median,
        "tflop_per_update": flops / 1e12,
        "tflops": flops / median / 1e12,
        "peak_memory_mb": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None,
    }


def measure_picture(base: Base, device: torch.device, steps: int, pictures: int) -> dict[str, Any]:
    """Figures of one personalised picture after one that does not count: caching and drawing, in 16 bits."""
    pipeline = DreamCachePipeline(base, random_adapters(base))
    side = pipeline.resolution
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    reference = Image.fromarray(noise)
    parts: dict[str, list[float]] = {"cache": [], "draw": []}

    def once(kept: bool) -> None:
        with torch.autocast(device.type, torch.float16 if device.type == "cuda" else torch.bfloat16):
            begin = time.perf_counter()
            cache = pipeline.cache(reference)
            _finish(device)
            cached = time.perf_counter()
            pipeline.generate("a toy on the beach", cache, steps=steps)
            _finish(device)
        if kept:
            parts["cache"].append(cached - begin)
            parts["draw"].append(time.perf_counter() - cached)

    for index in range(pictures + 1):
        once(index > 0)
    medians = {f"{name}_seconds": statistics.median(values) for name, values in parts.items()}
    return {"steps": steps, "pixels": side, **medians, "raw": parts}


def main() -> None:
    """Both measurements, with the device's name."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--architecture", default="sd15")
    parser.add_argument("--base", default="")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pictures", type=int, default=3)
    parser.add_argument("--peak", type=float)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    peak = given.peak or next((tflops for part, tflops in PEAK_TFLOPS.items() if part in name), None)

    def fresh(folder: str) -> Base:
        base = load_base(given.base) if given.base else random_base(given.architecture, Path(folder))
        for part in (base.unet, base.text_encoder, base.vae):
            torch.nn.Module.to(part, device)
        return base

    with TemporaryDirectory() as folder:
        picture = measure_picture(fresh(folder), device, given.steps, given.pictures)
    with TemporaryDirectory() as folder:
        training = measure_training(fresh(folder), device, given.batch, given.updates, given.recompute)
    record = {
        "device": name,
        "torch": torch.__version__,
        "model": given.base or given.architecture,
        "weights": "as in the base" if given.base else "random",
        "peak_tflops": peak,
        "training": training | {"share_of_peak": training["tflops"] / peak if peak else None},
        "picture": picture,
        "paper": {"device": PAPER_DEVICE, "seconds_of_100_steps": PAPER_SECONDS},
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    share = f", {training['tflops'] / peak:.1%} of {peak:g} TFLOP/s" if peak else ""
    print(
        f"{name}: {training['samples_per_second']:.2f} samples/s in training{share}; a picture of {given.steps} "
        f"steps in {picture['cache_seconds'] + picture['draw_seconds']:.2f} s (paper: {PAPER_SECONDS} s of 100 "
        f"steps on an {PAPER_DEVICE})"
    )


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
