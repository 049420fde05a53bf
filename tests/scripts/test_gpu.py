"""The script for GPUs, run on a CPU at a tiny size: its figures follow from each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_adapters_are_drawn_alike_on_every_device(tiny_base: Path) -> None:
    """A GPU's were drawn on the processor and met weights elsewhere; "meta" stands for one here."""
    base = load_base(str(tiny_base))
    here = [one.clone() for one in random_adapters(base).adapter_parameters()]
    base.unet.to("meta")
    there = list(random_adapters(base).adapter_parameters())
    assert {one.device.type for one in there} == {"meta"}
    assert [one.shape for one in there] == [one.shape for one in here]
    assert any(bool(one.ne(0).any()) for one in here)
