"""`dreamcache verify --coreml`: what it says of sound packages, and of others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from safetensors.numpy import load_file, save_file

from dreamcache.export.coreml.checks.recording import FILE, load_recording
from dreamcache.export.coreml.checks.verify import verify_coreml
from dreamcache.export.coreml.mil.package import open_package
from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.checks import Check
from dreamcache.runtime.cli.verify import verify


@pytest.fixture
def changed(both: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the bundle, and the path of one of its files."""
    copy = shutil.copytree(both, tmp_path / "copy")
    return lambda name: next(copy.rglob(name)) if name else copy


def failed(folder: Path) -> list[Check]:
    return [check for check in verify_coreml(open_contract(folder)) if not check.passed]


def test_sound_packages_pass(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(both, coreml=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    checks = {check["name"]: check["detail"] for check in found["checks"]}
    graphs = ("cache", "denoise", "text_encoder", "vae_encoder", "vae_decoder", "condition")
    assert {f"{graph} in {bits} bits" for graph in graphs for bits in (32, 16)} <= checks.keys()
    assert "4 packages, 9 functions" in checks["Core ML packages"]
    assert float(checks["denoise in 32 bits"].split()[0]) > 60
    assert "largest magnitude" in checks["range of 16 bits"]


def test_other_weights_are_noticed(changed: Callable[[str], Path]) -> None:
    weights = next(changed("Unet.mlpackage").rglob("weight.bin"))
    data = bytearray(weights.read_bytes())
    # A stretch in the middle as other numbers of 16 bits; what describes a blob stays.
    start = len(data) // 2 // 64 * 64 + 64
    values = np.frombuffer(bytes(data[start : start + 512]), np.float16)
    assert np.isfinite(values).all()
    data[start : start + 512] = (values + np.float16(3)).tobytes()
    weights.write_bytes(bytes(data))
    names = [check.name for check in failed(changed(""))]
    assert "denoise in 32 bits" in names
    assert "text_encoder in 32 bits" not in names


def test_what_is_declared_is_stored(changed: Callable[[str], Path]) -> None:
    package = changed("Unet.mlpackage")
    opened = open_package(package)
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    function = opened.specification.mlProgram.functions["cache"]
    block = function.block_specializations[function.opset]
    known = block.operations[-1].type
    block.operations[-1].type = "teleport"
    model.write_bytes(opened.specification.SerializeToString())
    (check,) = failed(changed(""))
    assert check.detail == "function cache: operations teleport are not implemented"
    block.operations[-1].type = known
    del opened.specification.mlProgram.functions["cache"]
    model.write_bytes(opened.specification.SerializeToString())
    (check,) = failed(changed(""))
    assert "function cache is declared" in check.detail
    model.write_bytes(model.read_bytes()[:2000])
    (check,) = failed(changed(""))
    assert "truncated" in check.detail


def test_a_bundle_without_packages_says_so(tiny_bundle: Path) -> None:
    (check,) = failed(tiny_bundle)
    assert check.detail == "the bundle holds no packages; export with --target all or coreml"


def test_a_recording_is_read_as_it_was_written(both: Path, tmp_path: Path) -> None:
    scheduler = open_contract(both).contract.scheduler
    path = both / "coreml" / FILE
    recording = load_recording(path, scheduler)
    assert len(recording.points) == 4
    assert len(recording.references) == 2
    recording.save(tmp_path / "again.safetensors")
    again = load_recording(tmp_path / "again.safetensors", scheduler)
    for one, two in zip(recording.points, again.points, strict=True):
        assert one.timestep == two.timestep
        assert all(np.array_equal(one.predictions[name], two.predictions[name]) for name in one.predictions)
    # PyTorch's own DDIM went where the runner's goes.
    point = recording.points[0]
    after = recording.advance(point.latent, point.timestep, point.predictions)
    assert np.abs(after - point.after).max() < 1e-4
    assert np.abs(after - recording.points[1].after).max() > 1e-2

    tensors = load_file(path)
    del tensors["point/1/latent"]
    save_file(tensors, tmp_path / "less.safetensors", {"format": "dreamcache-recording-1"})
    with pytest.raises(ExportError, match="latent is missing"):
        load_recording(tmp_path / "less.safetensors", scheduler)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ExportError, match="of this version is expected"):
        load_recording(tmp_path / "other.safetensors", scheduler)
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ExportError, match="cannot be read"):
        load_recording(tmp_path / "broken.safetensors", scheduler)
    assert replace(recording, points=()) != recording
