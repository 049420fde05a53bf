"""The probe that `dreamcache demo` runs: every stage of one picture, and its memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from dreamcache.benchmarks.probe import main
from dreamcache.benchmarks.process.child import MeasurementError


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    image = Image.new("RGB", (40, 40), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 32, 32), fill="red")
    image.save(tmp_path / "toy.png")
    return tmp_path / "toy.png"


def test_every_stage_is_timed_as_often_as_it_ran(
    gated: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(gated), "--reference", str(toy), "--prompt", "a robot", "--steps", "3", "--repeats", "2"]
    main(command)
    found = json.loads(capsys.readouterr().out)
    once = {"load": 1, "vae_encode": 1, "cache": 1}
    assert found["samples"] == {**once, "total": 2, "text": 2, "step": 6, "vae_decode": 2}
    latency = found["latency_ms"]
    assert latency["total"] > latency["text"] + 3 * latency["step"] * 0.5 > 0
    assert 10 < found["memory_mb"]["private_mb"] <= found["memory_mb"]["resident_mb"] < 2000


def test_a_process_that_fails_says_why(gated: Path, toy: Path) -> None:
    command = [str(gated), "--reference", str(toy), "--prompt", "a robot", "--steps", "5000"]
    with pytest.raises(MeasurementError, match="steps"):
        main(command)
