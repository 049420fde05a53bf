"""OpenVINO as a second engine: the same bundle, the same numbers; compiled graphs kept where nobody else can write."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_golden import add_golden

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.errors import BundleError, SettingsError
from dreamcache.runtime.sampling.device_check import check_device
from dreamcache.runtime.sessions.providers import choose_providers, cpu_has_bf16
from dreamcache.runtime.sessions.session import SessionOpener

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="needs openvino")
needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="needs a CPU with bf16 instructions")


def sessions(bundle: Path, kept: Path, **options: Any) -> SessionOpener:
    return SessionOpener(open_contract(bundle), ("openvino",), 1, graphs=kept, **options)


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreamcache.runtime.sessions.providers.has_openvino", lambda: False)
    with pytest.raises(
        SettingsError, match=r"openvino is not installed; .*pip install 'dreamcache\[openvino\]'"
    ):
        choose_providers(["openvino"])
    monkeypatch.setattr("dreamcache.runtime.sessions.providers.has_openvino", lambda: True)
    assert choose_providers(["OpenVINO"]) == ("openvino",)
    for names in (["openvino", "cpu"], ["cpu", "openvino"]):
        with pytest.raises(SettingsError, match="give it alone"):
            choose_providers(names)


@needs_openvino
def test_every_graph_computes_what_onnx_runtime_does(bundle: Path, tmp_path: Path) -> None:
    add_golden(bundle)
    figures = check_device(sessions(bundle, tmp_path))
    assert figures is not None
    assert min(figures.psnr_db.values()) > 90
    assert figures.condition == pytest.approx({"reference": 1.0, "text": 1.0}, abs=1e-3)


@needs_openvino
@needs_bf16
def test_fast_rounds_as_bf16_does(bundle: Path, tmp_path: Path) -> None:
    add_golden(bundle)
    figures = check_device(sessions(bundle, tmp_path, math="fast"))
    assert figures is not None
    # By far more than fp32's rounding, by far less than the signal.
    assert 25 < min(figures.psnr_db.values()) < 80


@needs_openvino
def test_compiled_graphs_are_kept_in_a_private_folder(pristine: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    latent = np.random.default_rng(1).standard_normal((1, 4, 4, 4), dtype=np.float32)

    def run() -> Any:
        with sessions(pristine, kept).open("vae_decoder") as graph:
            return graph.run({"latent_sample": latent})["sample"]

    first = run()
    (folder,) = kept.glob("openvino-*")
    (blob,) = folder.iterdir()
    stamp = blob.stat().st_mtime_ns
    assert psnr_db(first, run()) > 90
    assert blob.stat().st_mtime_ns == stamp
    # One that another version wrote, or that is damaged, is compiled anew.
    blob.chmod(0o600)
    blob.write_bytes(b"of another version")
    assert psnr_db(first, run()) > 90
    blob.unlink(missing_ok=True)
    folder.chmod(0o777)
    assert psnr_db(first, run()) > 90
    assert list(folder.iterdir()) == []


@needs_openvino
def test_a_graph_that_it_cannot_open_is_one_line(bundle: Path, tmp_path: Path) -> None:
    (bundle / "vae_decoder/model.onnx").write_bytes(b"no graph")
    with (
        pytest.raises(
            BundleError, match=r"graph vae_decoder \(vae_decoder/model.onnx\) cannot be opened"
        ) as caught,
        sessions(bundle, tmp_path).open("vae_decoder"),
    ):
        pass
    assert "\n" not in str(caught.value)


@needs_openvino
def test_a_picture_is_the_same(
    pristine: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAMCACHE_CACHE", str(tmp_path))
    options: dict[str, Any] = {"steps": 3, "seed": 7}
    pictures = []
    for provider in ("cpu", "openvino"):
        pipe = Pipeline.load(pristine, providers=[provider], threads=1)
        pictures.append(np.asarray(pipe.generate("a robot", pipe.cache(toy), **options), np.float32))
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert importlib.import_module("onnxruntime").get_available_providers()
