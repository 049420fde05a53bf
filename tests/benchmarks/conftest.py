"""Fixtures of the instrument's tests: tiny bundles that pass their gate, and a whole record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import tiny_bundle

from dreamcache.benchmarks.record import Record, read_record
from dreamcache.runtime.bundle.contract import ParityReport
from dreamcache.runtime.cli.main import main

PARITY = ParityReport(
    psnr_db={"denoiser": 120.0, "cache": 130.0},
    condition={"reference": 1.0, "text": 1.01},
    trajectory_db=(125.0, 118.0),
)
Build = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module that writes bundles by hand, without PyTorch."""
    return tiny_bundle


@pytest.fixture(scope="session")
def build(tiny: ModuleType) -> Build:
    """Writes a tiny bundle; derived: with a plain and a shallow graph beside its denoiser."""

    def write(folder: Path, parity: ParityReport = PARITY, derived: bool = True) -> Path:
        return Path(tiny.build(folder, parity=parity, shallow=derived))

    return write


@pytest.fixture(scope="session")
def gated(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that passes its gate."""
    return build(tmp_path_factory.mktemp("gated") / "first")


@pytest.fixture(scope="session")
def outputs(gated: Path, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of everything that one quick run of two alternating bundles writes."""
    folder = tmp_path_factory.mktemp("outputs")
    other = build(folder / "second", derived=False)
    command = ["bench", str(gated), "--against", str(other), "--quick", "--scaling", "--sustained", "0.02"]
    for option in ("json", "markdown", "csv", "html"):
        command += [f"--{option}", str(folder / f"out.{option}")]
    with pytest.raises(SystemExit) as left:
        main([*command, "--threads", "1"])
    assert left.value.code == 0
    return folder


@pytest.fixture(scope="session")
def record(outputs: Path) -> Record:
    return read_record(outputs / "out.json")
