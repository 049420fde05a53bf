"""Fast arithmetic is refused where a device is too far from PyTorch, and what was measured is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from tiny_bundle import seal
from tiny_golden import add_golden

from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.bundle.golden import CHECK_NAME, save_golden
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.fast_math import check_fast_math
from dreamcache.runtime.sessions.session import SessionOpener


def sessions(bundle: Path, kept: Path) -> SessionOpener:
    return SessionOpener(open_contract(bundle), ("CPUExecutionProvider",), 1, graphs=kept)


def test_what_was_measured_is_read_again(bundle: Path, tmp_path: Path) -> None:
    add_golden(bundle)
    figures = check_fast_math(sessions(bundle, tmp_path / "kept"))
    assert min(figures.psnr_db.values()) > 100
    (place,) = (tmp_path / "kept").iterdir()
    raw = json.loads(place.read_text())
    raw["psnr_db"]["denoiser"] = 42.0
    place.write_text(json.dumps(raw))
    assert check_fast_math(sessions(bundle, tmp_path / "kept")).psnr_db["denoiser"] == 42.0
    # Neither what others can write nor what is no record is believed.
    for damage in (lambda: place.chmod(0o666), lambda: place.write_text("[]"), lambda: place.write_text("{")):
        damage()
        assert check_fast_math(sessions(bundle, tmp_path / "kept")).psnr_db["denoiser"] > 100


def test_a_device_too_far_is_refused_with_the_figures(bundle: Path, tmp_path: Path) -> None:
    add_golden(bundle)
    tensors = load_file(bundle / CHECK_NAME)
    tensors["vae_decoder/output/sample"] *= 1.5
    save_golden(bundle / CHECK_NAME, tensors)
    seal(bundle)
    said = r"math fast: graph vae_decoder: at least 30 dB .* received \d.*; choose math exact"
    for _ in range(2):  # measured, then read
        with pytest.raises(SettingsError, match=said) as caught:
            check_fast_math(sessions(bundle, tmp_path))
        assert "text_encoder 200.0 dB" in str(caught.value)


def test_a_device_that_drops_a_condition_is_refused(bundle: Path, tmp_path: Path) -> None:
    add_golden(bundle)
    check_fast_math(sessions(bundle, tmp_path / "kept"))
    (place,) = (tmp_path / "kept").iterdir()
    raw = json.loads(place.read_text())
    for ratio, passes in ((0.96, True), (0.94, False), (1.06, False), (0.0, False)):
        raw["condition"]["reference"] = ratio
        place.write_text(json.dumps(raw))
        if passes:
            assert check_fast_math(sessions(bundle, tmp_path / "kept")).condition["reference"] == ratio
            continue
        with pytest.raises(
            SettingsError, match=rf"effect of the reference: within 5% .* received {ratio:.3f}"
        ):
            check_fast_math(sessions(bundle, tmp_path / "kept"))


def test_a_bundle_without_golden_tensors_cannot_be_judged(pristine: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"golden tensors are expected .* export it again"):
        check_fast_math(sessions(pristine, tmp_path))
