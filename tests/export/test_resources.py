"""Too little disk or memory is said before work starts, from counts that need no weights in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from joined_files import tiny_taesd
from ldm_layout import write_ldm_checkpoint

from dreamcache.export import resources
from dreamcache.export.command import export
from dreamcache.export.errors import ExportError
from dreamcache.export.resources import (
    ModelSize,
    check_resources,
    estimate_needs,
    size_of_architecture,
    size_of_files,
    size_of_model,
)
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.sessions.system_memory import free_memory

GB = 10**9


def test_counts_agree_however_they_are_read(tiny_base: Path, tiny_adapters: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    counted = size_of_model(base, load_adapters(tiny_adapters, base.unet))
    assert size_of_files(tiny_base, tiny_adapters) == counted
    checkpoint = write_ldm_checkpoint(tmp_path / "m.safetensors", tiny_base)
    single = size_of_files(checkpoint, tiny_adapters)
    # The checkpoint keeps 16 position ids, which the model does not have as a parameter.
    assert single.total == counted.total + 16
    # Another VAE counts in the place of the base's own: a folder, a checkpoint, and TAESD's two million.
    tiny_taesd().save_pretrained(tmp_path / "taesd")
    vae = sum(parameter.numel() for parameter in tiny_taesd().parameters())
    assert size_of_files(tiny_base, tiny_adapters, vae=tmp_path / "taesd") == replace(counted, vae=vae)
    assert size_of_files(tiny_base, tiny_adapters, vae=checkpoint).vae == counted.vae != vae
    assert size_of_architecture("bk-sdm-tiny", "taesd").vae == 2_445_063
    with pytest.raises(AdapterError, match="no weights of the variant 'fp8'"):
        size_of_files(tiny_base, tiny_adapters, "fp8")


def test_stable_diffusion() -> None:
    size = size_of_architecture("sd15")
    assert size == ModelSize(859_520_964, 25_207_040, 123_060_480, 83_653_863)
    needs = estimate_needs(size)
    # The bundle itself is 4 bytes a parameter. Measured: 7.5 GB of private memory in fp32, 9.3 GB in int8.
    assert needs.disk == pytest.approx(4 * size.total, rel=0.01)
    assert needs.memory == pytest.approx(7.5 * GB, rel=0.15)
    assert estimate_needs(size, "int8").memory == pytest.approx(9.3 * GB, rel=0.15)
    packages = estimate_needs(size, None, coreml=True)
    assert packages.memory == pytest.approx(10.6 * GB, rel=0.15)
    assert packages.disk == pytest.approx(5.9 * GB, rel=0.1)
    assert estimate_needs(size, coreml=True).disk > needs.disk + packages.disk - 0.1 * GB
    assert estimate_needs(size, pixels=768**2).memory > needs.memory
    assert estimate_needs(size_of_architecture("bk-sdm-tiny")).memory < 0.6 * needs.memory


def test_too_little_is_said_with_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ModelSize(10**9, 0, 0, 0)
    needs = estimate_needs(size)
    monkeypatch.setattr(resources, "free_memory", lambda: needs.memory + 1)
    assert check_resources(size, tmp_path / "b") == needs
    monkeypatch.setattr(resources, "free_memory", lambda: needs.memory - 1)
    with pytest.raises(ExportError, match=r"needs 7.9 GB of memory and 7.9 GB are free"):
        check_resources(size, tmp_path / "b")
    # What is loaded already is not needed once more.
    check_resources(size, tmp_path / "b", loaded=True)
    monkeypatch.setattr(resources, "free_memory", lambda: None)
    check_resources(size, tmp_path / "b")
    with pytest.raises(ExportError, match=r"needs [0-9.]+ GB of disk and .* has [0-9.]+ GB free"):
        check_resources(ModelSize(10**15, 0, 0, 0), tmp_path / "b")


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 8000 * 1024), ("3000000", 3_000_000 - 1_000_000 + 400_000)]
)
def test_free_memory_minds_the_control_group(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", encoding="ascii")
    (tmp_path / "memory.max").write_text(f"{limit}\n", encoding="ascii")
    (tmp_path / "memory.current").write_text("1000000\n", encoding="ascii")
    (tmp_path / "memory.stat").write_text("anon 600000\ninactive_file 400000\n", encoding="ascii")
    assert free_memory(tmp_path / "meminfo", tmp_path) == expected


@pytest.mark.parametrize("model", [{"architecture": "sd15"}, {"base": "mini"}])
def test_the_command_checks_before_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    from dreamcache.export import source as sources

    monkeypatch.setattr(resources, "free_memory", lambda: 1e6)
    monkeypatch.setattr(sources, "load_base", lambda *_, **__: pytest.fail("weights were loaded"))
    monkeypatch.setattr(sources, "random_base", lambda *_: pytest.fail("weights were made"))
    with pytest.raises(ExportError, match=r"of memory and 0.0 GB are free"):
        export(out=tmp_path / "bundle", **model)
    assert not list(tmp_path.iterdir())
