"""The gates: each passes what is right and raises on what is wrong."""

from __future__ import annotations

import numpy as np
import pytest

from dreamcache.export.errors import ExportError
from dreamcache.export.parity.gates import Finding, check_condition, check_disk, check_psnr, check_sensitivity
from dreamcache.runtime.bundle.parity import DISK_GRANT_BYTES, MAX_DB, psnr_db

GOOD: Finding = {
    "psnr": 120.0,
    "error": 1e-5,
    "torch_reference": 2.0,
    "onnx_reference": 2.0,
    "torch_text": 3.0,
    "onnx_text": 3.0,
    "stock_psnr": 120.0,
    "stock_leak": 0.0,
    "zeroed": 1.0,
    "swapped": 1.0,
}


def test_psnr_of_a_known_error() -> None:
    expected = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
    assert psnr_db(expected, expected + np.float32(0.002)) == pytest.approx(60.0, abs=0.01)
    assert psnr_db(expected, expected) == MAX_DB
    assert psnr_db(expected, np.full(4, np.nan)) == -MAX_DB
    assert psnr_db(np.zeros(4), expected) == -MAX_DB


def test_psnr_gate() -> None:
    check_psnr("cache", 80.0)
    with pytest.raises(ExportError, match=r"cache is 79\.9 dB"):
        check_psnr("cache", 79.9)


def test_disk_gate_counts_what_grows_with_the_model() -> None:
    check_disk(105_000_000, 100_000_000)
    check_disk(2 * DISK_GRANT_BYTES, 2 * DISK_GRANT_BYTES - 1000)
    with pytest.raises(ExportError, match=r"2\.000 times"):
        check_disk(200_000_000, 100_000_000)


def test_condition_gate() -> None:
    assert check_condition([GOOD]) == {"reference": 1.0, "text": 1.0}
    check_condition([{**GOOD, "onnx_text": 3.14}])
    with pytest.raises(ExportError, match=r"reference is 0\.900 times"):
        check_condition([{**GOOD, "onnx_reference": 1.8}])
    with pytest.raises(ExportError, match=r"text is 1\.067 times"):
        check_condition([{**GOOD, "onnx_text": 3.2}])
    with pytest.raises(ExportError, match="reference changes nothing in PyTorch"):
        check_condition([{**GOOD, "torch_reference": 0.0}])


def test_sensitivity_gate() -> None:
    check_sensitivity([GOOD])
    with pytest.raises(ExportError, match="zeroed cache"):
        check_sensitivity([{**GOOD, "zeroed": 5e-5}])
    with pytest.raises(ExportError, match="swapped cache"):
        check_sensitivity([{**GOOD, "swapped": 0.0}])
    with pytest.raises(ExportError, match="strength 0"):
        check_sensitivity([{**GOOD, "stock_psnr": 60.0}])
    with pytest.raises(ExportError, match="strength 0 the cache"):
        check_sensitivity([{**GOOD, "stock_leak": 1e-7}])
