"""Weights of the metrics: found in folders, refused in one line that says what to fetch and where to put it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamcache.training.errors import MetricModelError
from dreamcache.training.evaluation.dreambooth.encoders import ClipEncoder, DinoEncoder
from dreamcache.training.evaluation.dreambooth.metric_weights import KINDS, Metric, find_weights, how_to_get


@pytest.fixture
def own(dino_folder: Path, clip_folder: Path, tmp_path: Path) -> dict[Metric, Path]:
    """Copies that the test may damage."""
    return {
        "dino": Path(shutil.copytree(dino_folder, tmp_path / "dino")),
        "clip": Path(shutil.copytree(clip_folder, tmp_path / "clip")),
    }


def refusal(metric: Metric, source: object) -> str:
    with pytest.raises(MetricModelError) as raised:
        find_weights(metric, str(source))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_folder_is_described_by_its_weights(own: dict[Metric, Path]) -> None:
    found = find_weights("dino", str(own["dino"]))
    assert (found.folder, len(found.sha256)) == (own["dino"], 64)
    assert not found.as_published
    config = json.loads((own["dino"] / "config.json").read_text())
    (own["dino"] / "config.json").write_text(json.dumps(config | KINDS["dino"].published))
    assert find_weights("dino", str(own["dino"])).as_published
    # transformers leaves defaults out of config.json: this is ViT-B/16
    (own["dino"] / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert not find_weights("dino", str(own["dino"])).as_published


def test_a_pickle_is_never_opened(own: dict[Metric, Path]) -> None:
    weights = own["dino"] / "model.safetensors"
    torch.save(load_file(weights), own["dino"] / "pytorch_model.bin")
    assert find_weights("dino", str(own["dino"]))
    weights.unlink()
    message = refusal("dino", own["dino"])
    assert "pytorch_model.bin" in message
    assert "never opened" in message
    assert how_to_get("dino") in message


@pytest.mark.parametrize("metric", ["dino", "clip"])
def test_absent_weights_say_what_to_fetch_and_where_to_put_it(metric: Metric, tmp_path: Path) -> None:
    for source in (tmp_path / "nowhere", tmp_path):
        message = refusal(metric, source)
        assert KINDS[metric].model_id in message
        assert f"--{metric} {KINDS[metric].model_id.split('/')[1]}" in message
        assert "save_pretrained" in message


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refusal("clip", "openai/nothing-of-that-name@main")
    assert "cannot be fetched from the Hub" in message
    assert "--clip clip-vit-base-patch32" in message


@pytest.mark.parametrize("name", ["preprocessor_config.json", "vocab.json", "config.json"])
def test_an_incomplete_folder(own: dict[Metric, Path], name: str) -> None:
    (own["clip"] / name).unlink()
    assert f"lacks {name}" in refusal("clip", own["clip"])


def test_the_wrong_kind_of_model(own: dict[Metric, Path]) -> None:
    assert "a vit model is expected" in refusal("dino", own["clip"])
    (own["dino"] / "config.json").write_text("{")
    assert "is not JSON" in refusal("dino", own["dino"])


def test_missing_and_broken_weights_are_noticed_when_they_load(own: dict[Metric, Path]) -> None:
    path = own["dino"] / "model.safetensors"
    DinoEncoder(find_weights("dino", str(own["dino"])))
    tensors = load_file(path)
    save_file({k: v for k, v in tensors.items() if "layernorm.bias" not in k}, path, {"format": "pt"})
    with pytest.raises(MetricModelError, match=r"lacks layernorm\.bias of its weights"):
        DinoEncoder(find_weights("dino", str(own["dino"])))
    whole = (own["clip"] / "model.safetensors").read_bytes()
    (own["clip"] / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MetricModelError, match="cannot be read"):
        ClipEncoder(find_weights("clip", str(own["clip"])))
