"""The script for GPUs, run on a CPU at a tiny size: its figures follow from each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from dreamcache.export.source import random_adapters
from dreamcache.models.bases.base import load_base

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "scripts" / "gpu.py"


def test_its_figures_follow_from_what_was_measured(tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    sizes = ["--batch", "2", "--updates", "3", "--steps", "2", "--pictures", "1", "--peak", "0.5"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--json", str(out), "--base", str(tiny_base), *sizes],
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(out.read_text())
    training = record["training"]
    middle = sorted(training["seconds"])[1]
    assert len(training["seconds"]) == 3
    assert training["samples_per_second"] == pytest.approx(2 / middle)
    assert training["tflops"] == pytest.approx(training["tflop_per_update"] / middle)
    assert training["share_of_peak"] == pytest.approx(training["tflops"] / 0.5)
    # Two samples through a UNet of 1.1 million parameters and back: more than one product of each with each token.
    assert 1e-6 < training["tflop_per_update"] < 1e-2
    assert record["picture"]["draw_seconds"] > 0
    assert record["device"] in done.stdout
    assert "samples/s in training" in done.stdout


class OneDevice(TorchFunctionMode):
    """A sum over two devices ends, as it does where one of them is a GPU; "meta" takes anything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        devices = {one.device for one in args if isinstance(one, torch.Tensor)}
        if func is torch.Tensor.add_ and len(devices) > 1:
            raise RuntimeError(f"two devices: {devices}")
        return func(*args, **kwargs or {})


def test_random_adapters_are_added_on_the_device_of_their_base(tiny_base: Path) -> None:
    base = load_base(str(tiny_base))
    base.unet.to("meta")
    with OneDevice():
        conditioned = random_adapters(base)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.zeros(1).add_(torch.zeros(1, device="meta"))
    assert {one.device.type for one in conditioned.adapter_parameters()} == {"meta"}
