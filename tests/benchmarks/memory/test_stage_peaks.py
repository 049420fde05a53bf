"""Peaks of stages measured from inside, and factors fitted to measured peaks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from dreamcache.benchmarks.memory.fit_factors import MeasuredPeak, fit_factors
from dreamcache.benchmarks.memory.stage_peaks import main
from dreamcache.runtime.budgets.factors import FACTORS, Quantities
from dreamcache.runtime.budgets.plan import predict_peaks
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.bundle.folder import open_contract

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def contract(gated: Path) -> Contract:
    return open_contract(gated).contract


def test_factors_are_recovered_from_peaks_that_they_made() -> None:
    truth = replace(FACTORS["memory"]["int8"], process=90e6, unet=31.0, decoder=3.0)
    loads = [
        Quantities(),
        Quantities(inline=2e8),
        Quantities(unet=5e6, held=1e7),
        Quantities(unet=2e7, mapped=1e9),
        Quantities(decoder=1.3e8),
    ]
    peaks = [MeasuredPeak("memory", "int8", load, truth.peak(load)) for load in loads]
    fitted = fit_factors(peaks, "memory", "int8", trust=1e-3)
    for load in loads:
        assert fitted.peak(load) == pytest.approx(truth.peak(load), rel=0.01)
        assert fitted.peak(load) >= 0
    assert fitted.unet == pytest.approx(31, rel=0.02)
    assert fitted.decoder == pytest.approx(3, rel=0.02)
    assert fitted.held == pytest.approx(1)
    # What no measurement bears on stays, and measurements of another profile or precision change nothing.
    assert fitted.strips == pytest.approx(FACTORS["memory"]["int8"].strips)
    for profile, precision in (("speed", "int8"), ("memory", "fp32")):
        present = FACTORS[profile][precision]  # type: ignore[index]
        assert astuple(fit_factors(peaks, profile, precision)) == pytest.approx(astuple(present))  # type: ignore[arg-type]


def test_no_factor_becomes_negative() -> None:
    shrinking = [
        MeasuredPeak("speed", "fp32", Quantities(mapped=size), 2e8 - size / 10) for size in (0, 1e8, 1e9)
    ]
    assert min(astuple(fit_factors(shrinking, "speed", "fp32", trust=1e-3))) >= 0


@linux
@pytest.mark.parametrize("profile", ["speed", "memory"])
def test_measured_stages_are_near_the_prediction(
    gated: Path, contract: Contract, tmp_path: Path, profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny bundle is all process; the miniature and full sizes are in docs/guides/memory.md."""
    command = [
        sys.executable,
        "-m",
        "dreamcache.benchmarks.memory.stage_peaks",
        str(gated),
        "--profile",
        profile,
    ]
    environment = {"DREAMCACHE_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["stage"] for record in records] == ["text", "vae_encode", "cache", "denoise", "vae_decode"]
    predicted = predict_peaks(contract, profile, caches=True)  # type: ignore[arg-type]
    for record in records:
        assert 0.5 < record["private_bytes"] / predicted[record["stage"]] < 1.5
    (tmp_path / "peaks.jsonl").write_text(done.stdout)
    main(["--fit", str(tmp_path / "peaks.jsonl")])
    assert "denoise: measured" in capsys.readouterr().out
