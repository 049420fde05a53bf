"""`dreamcache demo` as a newcomer runs it, with fewer toys: files, figures, and that the reference counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dreamcache.models.bases.base import MINI_ADAPTERS

TOYS, STEPS = 4, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert MINI_ADAPTERS.exists(), "the miniature ships with the repository"
    out = tmp_path_factory.mktemp("demo") / "d"
    command = [sys.executable, "-m", "dreamcache.runtime.cli", "demo", "--out", str(out)]
    done = subprocess.run(
        [*command, "--toys", str(TOYS), "--steps", str(STEPS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "identity accuracy" in done.stdout
    return out


@pytest.fixture(scope="module")
def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return loaded


def test_pictures_are_there(folder: Path) -> None:
    for name in ("demo.png", "features.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 500
            assert len(picture.convert("RGB").getcolors(2**24) or ()) > 1000


def test_the_report_has_every_figure(report: dict[str, Any]) -> None:
    conditions = {"dreamcache", "text_only", "wrong_cache"}
    assert set(report["identity_accuracy"]) == set(report["scene_accuracy"]) == conditions
    assert report["parity"]["cache_psnr_db"] >= 80
    assert report["parity"]["denoiser_psnr_db"] >= 80
    assert report["condition_ratio"] == pytest.approx(1, abs=0.05)
    assert 1 < report["disk"]["two_graphs_over_one"] <= 1.05
    assert {"text", "cache", "step", "vae_decode", "total"} <= set(report["latency_ms"])
    assert 50 < report["peak_private_mb"] < 2000


def test_the_reference_counts_and_a_wrong_one_does_not(report: dict[str, Any]) -> None:
    identity = report["identity_accuracy"]
    # 16 pictures with three attributes each: chance is 0.12 and its standard error 0.05
    assert identity["dreamcache"] > identity["text_only"] + 0.15
    assert identity["dreamcache"] > identity["wrong_cache"] + 0.15


def test_a_second_run_refuses_to_replace_the_first(folder: Path) -> None:
    before = (folder / "report.json").read_bytes()
    command = [sys.executable, "-m", "dreamcache.runtime.cli", "demo", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--overwrite" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (folder / "report.json").read_bytes() == before
