"""Core ML itself, where it runs: load times, compute units, and the same comparison as the interpreter's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("coremltools")

from dreamcache.export.coreml.checks.native import verify_native
from dreamcache.export.coreml.checks.recording import load_recording
from dreamcache.runtime.bundle.folder import open_contract

pytestmark = pytest.mark.skipif(sys.platform != "darwin", reason="Core ML runs on macOS alone")


def test_core_ml_computes_what_pytorch_does(both: Path) -> None:
    bundle = open_contract(both)
    part = bundle.contract.coreml
    assert part is not None
    recording = load_recording(bundle.path(part.recording), bundle.contract.scheduler)
    checks = {check.name: check for check in verify_native(bundle, part, recording, lambda _: None)}
    assert all(check.passed for check in checks.values())
    assert "denoise in Core ML" in checks
    loads = [check.detail for name, check in checks.items() if name.startswith("Unet.mlpackage")]
    assert all("loads in" in detail and "operations:" in detail for detail in loads)
