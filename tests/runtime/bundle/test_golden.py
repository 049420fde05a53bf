"""`check.safetensors`: a device that computes otherwise is noticed, and so is a file that is no such file."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tiny_golden import add_golden

from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.bundle.golden import CHECK_NAME, read_golden, repeated, take_sample
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.sampling.device_check import check_device
from dreamcache.runtime.sessions.session import SessionOpener

FORMAT = {"format": "dreamcache-check-1"}


@pytest.fixture
def golden(bundle: Path) -> dict[str, NDArray[Any]]:
    """The tensors of the file that `bundle` now has."""
    tensors: dict[str, NDArray[Any]] = add_golden(bundle)
    return tensors


def failed(bundle: Path) -> dict[str, float | None]:
    return {check.name: check.value for check in verify_bundle(bundle) if not check.passed}


@pytest.mark.usefixtures("golden")
def test_a_device_that_computes_the_same(bundle: Path) -> None:
    figures = check_device(SessionOpener(open_contract(bundle), ("CPUExecutionProvider",), 1))
    assert figures is not None
    assert set(figures.psnr_db) == {
        *("text_encoder", "vae_encoder", "cache", "denoiser", "vae_decoder", "plain", "shallow")
    }
    assert min(figures.psnr_db.values()) > 100
    assert figures.condition == pytest.approx({"reference": 1.0, "text": 1.0}, abs=1e-3)
    assert list(figures.faults(100)) == []
    assert next(fault.partition(":")[0] for fault in figures.faults(250)) == "graph cache"
    assert failed(bundle) == {}


def test_an_older_bundle_has_none(pristine: Path) -> None:
    checks = {check.name: check for check in verify_bundle(pristine)}
    assert checks["golden tensors"].passed
    assert "older version" in checks["golden tensors"].detail


@pytest.mark.usefixtures("golden")
@pytest.mark.parametrize(
    ("weight", "effect", "expected"),
    [("attentions", "effect of the reference", 0.0), ("text_to_out", "effect of the text", 0.0)],
)
def test_a_device_that_drops_a_condition(
    bundle: Path, tiny: ModuleType, weight: str, effect: str, expected: float
) -> None:
    from dreamcache.runtime.bundle.graph_files.contents import stored_tensors

    data = np.fromfile(bundle / "unet/weights.data", np.float32)
    for tensor in stored_tensors(bundle / "unet/model.onnx"):
        if tensor.location is not None and weight in tensor.name and tensor.name.endswith("to_out"):
            data[tensor.offset // 4 : (tensor.offset + tensor.size) // 4] = 0
    data.tofile(bundle / "unet/weights.data")
    tiny.seal(bundle)
    found = failed(bundle)
    assert found[effect] == pytest.approx(expected, abs=0.02)
    denoiser = found["golden denoiser"]
    assert denoiser is not None
    assert denoiser < 45


def test_inputs_are_repeated_and_outputs_sampled_as_the_page_says() -> None:
    stored = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    whole = repeated(stored, (2, 3, 4))
    assert all(
        whole[i, j, k] == stored[0, j % 2, k % 3] for i in range(2) for j in range(3) for k in range(4)
    )
    output = np.arange(10_000, dtype=np.float32).reshape(100, 100)
    assert take_sample(output, 1021).tolist() == [i * 10_000 // 1021 for i in range(1021)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"vae_encoder/input/sample": None, "vae_encoder/output/latent_parameters": None},
            "none of vae_encoder",
        ),
        ({"denoiser:other/output/prediction": np.ones(3, np.float32)}, "received 'denoiser:other"),
        ({"cache/input/latent": np.ones((1, 4, 5, 4), np.float32)}, "at most [1, 4, 4, 4]"),
        ({"cache/input/latent": np.ones((1, 0, 4, 4), np.float32)}, "received [1, 0, 4, 4]"),
        ({"cache/input/latent": np.full((1, 4, 4, 4), np.nan, np.float32)}, "finite"),
        ({"text_encoder/input/input_ids": np.ones((1, 8), np.float32)}, "int64"),
        ({"vae_decoder/input/latent_sample": None}, "latent_sample is missing"),
        ({"vae_decoder/output/sample": None}, "sample is missing"),
        ({"vae_decoder/output/sample": np.ones(769, np.float32)}, "1 to 768"),
        ({"vae_decoder/output/sample": np.ones(7, np.float16)}, "float16"),
        ({"vae_decoder/output/other": np.ones(7, np.float32)}, "output other"),
    ],
)
def test_a_file_that_does_not_fit(
    bundle: Path, golden: dict[str, Any], change: dict[str, NDArray[Any] | None], message: str
) -> None:
    tensors = {name: value for name, value in (golden | change).items() if value is not None}
    save_file(
        {name: np.ascontiguousarray(value) for name, value in tensors.items()}, bundle / CHECK_NAME, FORMAT
    )
    with pytest.raises(BundleError) as caught:
        read_golden(open_contract(bundle))
    assert message in str(caught.value)
    assert str(caught.value).startswith("check.safetensors: ")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("golden")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "complete safetensors file"),
        (b"\xff" * 64, "complete safetensors file"),
        (bytes((1 << 20) + 1), "at most 1048576 bytes"),
        (len(b"{}").to_bytes(8, "little") + b"{}", "the format dreamcache-check-1"),
    ],
)
def test_a_file_that_is_no_such_file(bundle: Path, data: bytes, message: str) -> None:
    (bundle / CHECK_NAME).write_bytes(data)
    with pytest.raises(BundleError, match=message):
        read_golden(open_contract(bundle))


@pytest.mark.usefixtures("golden")
def test_verify_says_what_is_wrong_with_the_file(
    bundle: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    from dreamcache.runtime.cli.main import main

    (bundle / CHECK_NAME).write_bytes(b"{")
    tiny.seal(bundle)
    with pytest.raises(SystemExit) as status:
        main(["verify", str(bundle), "--json"])
    assert status.value.code == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in checks if not check["passed"]] == ["golden tensors"]
