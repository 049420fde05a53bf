"""`dreamcache doctor`: what is missing is named, and --clear removes what the runner wrote and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from dreamcache.runtime.cli import doctor as page
from dreamcache.runtime.sessions import system


def test_missing_packages_are_named_by_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        "numpy>=2",
        'onnx-nowhere<2,>=1; extra == "export"',
        'numpy>=2; extra == "bench"',
        'dreamcache[bench,export]; extra == "all"',
    ]
    monkeypatch.setattr(page, "requires", lambda _: asked)
    assert page.missing_extras() == {"export": ["onnx-nowhere"], "all": ["onnx-nowhere"]}


def test_clear_removes_what_the_runner_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DREAMCACHE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "own").mkdir()
    (tmp_path / "dreamcache" / "web").mkdir(parents=True)
    (tmp_path / "own" / "a.graph").write_bytes(b"123")
    (tmp_path / "dreamcache" / "web" / "ort.wasm").write_bytes(b"12345")
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    page.doctor(as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["caches"] == {str(tmp_path / "own"): 3, str(tmp_path / "dreamcache"): 5}
    assert found["machine"]["cores"] >= 1
    assert "CPUExecutionProvider" in found["providers"]
    page.doctor(clear=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["thesis.txt"]
    assert "0.0 MB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "place"), [("darwin", "Library/Caches"), ("linux", ".cache"), ("win32", "local")]
)
def test_each_system_has_its_cache(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(system, "sys", SimpleNamespace(platform=name))
    assert system.user_caches() == tmp_path / place
