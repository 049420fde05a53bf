"""Adapters files: the round trip, and every kind of file that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import MINI_SHAPED, randomise_adapters, tiny_unet

from dreamcache.models.checkpoint import (
    adapter_state,
    adapters_fingerprint,
    base_fingerprint,
    load_adapters,
    read_adapters,
    save_adapters,
)
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError

SITE = "mid_block.attentions.0"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(name="model")
def _model() -> ConditionedUNet:
    return randomise_adapters(ConditionedUNet(tiny_unet(**MINI_SHAPED), AdapterConfig(cache_timestep=150)))


def test_round_trip(model: ConditionedUNet, tmp_path: Path) -> None:
    path = tmp_path / "adapters.safetensors"
    save_adapters(path, model, {"steps": "12"})
    loaded = load_adapters(path, tiny_unet(**MINI_SHAPED))
    assert loaded.config == model.config
    assert all(
        torch.equal(adapter_state(loaded)[name], value) for name, value in adapter_state(model).items()
    )
    assert adapters_fingerprint(loaded) == adapters_fingerprint(model)
    assert read_adapters(path)[1]["steps"] == "12"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_name_as_long_as_the_file_system_takes(model: ConditionedUNet, tmp_path: Path) -> None:
    for name in ("n" * 240 + ".safetensors", "ü" * 120 + ".safetensors"):
        save_adapters(tmp_path / name, model)
        assert read_adapters(tmp_path / name)[1]["format"]
    assert len(list(tmp_path.iterdir())) == 2


def test_half_precision_base_is_the_same_base(model: ConditionedUNet) -> None:
    halved = tiny_unet(**MINI_SHAPED).half().float()
    assert base_fingerprint(halved) == base_fingerprint(model.unet)
    assert base_fingerprint(tiny_unet(seed=5, **MINI_SHAPED)) != base_fingerprint(model.unet)
    heads = tiny_unet(**{**MINI_SHAPED, "attention_head_dim": 4})
    assert base_fingerprint(heads) != base_fingerprint(model.unet)


def test_another_base_is_refused(model: ConditionedUNet, tmp_path: Path) -> None:
    save_adapters(tmp_path / "a.safetensors", model)
    with pytest.raises(AdapterError, match="belongs to the base"):
        load_adapters(tmp_path / "a.safetensors", tiny_unet(seed=5, **MINI_SHAPED))


def drop_key(tensors: Tensors) -> None:
    del tensors[f"{SITE}.to_q.weight"]


def add_key(tensors: Tensors) -> None:
    tensors[f"{SITE}.to_q.bias"] = torch.zeros(32)


def cut_rows(tensors: Tensors) -> None:
    tensors[f"{SITE}.to_q.weight"] = tensors[f"{SITE}.to_q.weight"][:-1].clone()


def put_nan(tensors: Tensors) -> None:
    tensors[f"{SITE}.to_q.weight"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_key, f"lacks {SITE}.to_q.weight"),
        (add_key, f"fit no site: {SITE}.to_q.bias"),
        (cut_rows, f"{SITE}.to_q.weight is \\[31, 32\\], expected \\[32, 32\\]"),
        (put_nan, f"not finite numbers in {SITE}.to_q.weight"),
    ],
)
def test_damaged_tensors_are_named(
    model: ConditionedUNet, tmp_path: Path, damage: Callable[[Tensors], None], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_adapters(path, model)
    tensors, metadata = read_adapters(path)
    damage(tensors)
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(AdapterError, match=message):
        load_adapters(path, model.unet)


def test_pickles_truncated_and_absent_files_are_refused(model: ConditionedUNet, tmp_path: Path) -> None:
    pickled = tmp_path / "a.pt"
    torch.save(adapter_state(model), pickled)
    whole = tmp_path / "a.safetensors"
    save_adapters(whole, model)
    truncated = tmp_path / "b.safetensors"
    truncated.write_bytes(whole.read_bytes()[:-10])
    for path in (pickled, truncated):
        with pytest.raises(AdapterError, match="not a safetensors file"):
            load_adapters(path, model.unet)
    with pytest.raises(AdapterError, match="no adapters file"):
        load_adapters(tmp_path / "none.safetensors", model.unet)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(AdapterError, match="format None"):
        load_adapters(tmp_path / "other.safetensors", model.unet)


def test_saving_refuses_reserved_metadata_and_nan(model: ConditionedUNet, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="reserved"):
        save_adapters(tmp_path / "a.safetensors", model, {"base": "mine"})
    with torch.no_grad():
        next(model.adapter_parameters()).fill_(torch.inf)
    with pytest.raises(AdapterError, match="not finite"):
        save_adapters(tmp_path / "a.safetensors", model)
    assert not list(tmp_path.iterdir())
