"""Weights of a very large model lie in files while it is exported: the same numbers, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dreamcache.export import bundle, resources
from dreamcache.export.bundle import export_bundle
from dreamcache.export.modules import mapped_weights
from dreamcache.export.modules.mapped_weights import map_weights
from dreamcache.export.resources import HUGE_PARAMETERS, estimate_needs, is_huge, size_of_architecture
from dreamcache.export.source import Source, random_adapters
from dreamcache.models.bases.base import load_base

GB = 1e9


@pytest.fixture(name="source")
def _source(tiny_base: Path) -> Source:
    base = load_base(tiny_base)
    return Source("tiny", base, random_adapters(base))


def test_nothing_but_the_place_changes(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_weights, "MAPPED_BYTES", 1)
    models = {"unet": source.conditioned, "vae": source.base.vae, "text": source.base.text_encoder}
    before = {
        f"{name}.{key}": value.clone()
        for name, model in models.items()
        for key, value in model.state_dict().items()
    }
    places = {parameter.data_ptr() for model in models.values() for parameter in model.parameters()}
    moved = map_weights(source.base, source.conditioned, tmp_path)
    assert moved == sum(parameter.nbytes for model in models.values() for parameter in model.parameters())
    for name, model in models.items():
        assert not places & {parameter.data_ptr() for parameter in model.parameters()}
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[f"{name}.{key}"])
    # The files have no name any more.
    assert not list(tmp_path.iterdir())
    # Small tensors stay where they are.
    monkeypatch.setattr(mapped_weights, "MAPPED_BYTES", 1 << 30)
    assert map_weights(source.base, source.conditioned, tmp_path) == 0


@pytest.mark.parametrize("huge", [True, False])
def test_an_export_maps_what_is_huge(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, huge: bool
) -> None:
    said: list[Any] = []

    class _ReachedError(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise _ReachedError

    monkeypatch.setattr(bundle, "map_weights", lambda *given: said.append(given[2]))
    monkeypatch.setattr(bundle, "write_onnx", stop)
    if huge:
        monkeypatch.setattr(resources, "HUGE_PARAMETERS", 1)
    with pytest.raises(_ReachedError):
        export_bundle(source, tmp_path / "bundle")
    assert said == ([tmp_path] if huge else [])


def test_sdxl_is_huge_and_needs_the_memory_of_its_weights() -> None:
    size = size_of_architecture("sdxl")
    assert is_huge(size.unet)
    assert not is_huge(size_of_architecture("sd21").unet)
    assert not is_huge(HUGE_PARAMETERS - 1)
    for precision, disk in (("fp32", 28.0), ("fp16", 35.0)):
        needs = estimate_needs(size, precision, 512**2)  # type: ignore[arg-type]
        assert needs.memory == pytest.approx(4 * size.total + 0.6 * GB)
        assert needs.disk == pytest.approx(disk * GB, rel=0.01)
