"""The loop: what it trains, how updates may be split, what it logs, and what stops it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import randomise_adapters
from tiny_training import TINY, Toys, checkpoint, furthest, train, weights

from dreamcache.export.declare.settings import declare_guidance
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import load_adapters, read_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.errors import AdapterError
from dreamcache.runtime.errors import DreamCacheError, SettingsError
from dreamcache.training.adapters.checkpoints import NAME
from dreamcache.training.adapters.logs import read_log
from dreamcache.training.adapters.run import finetune
from dreamcache.training.adapters.trainer import ADAPTERS
from dreamcache.training.errors import CheckpointError, DivergenceError


def test_adapters_learn_and_belong_to_the_base(tiny_base: Path, tmp_path: Path) -> None:
    done = train(tiny_base, tmp_path, steps=40, sheet_rows=2, sheet_steps=2, tensorboard=True, ema="none")
    losses = [line["loss"] for line in read_log(tmp_path)]
    assert len(losses) == 40
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    conditioned = load_adapters(done.adapters, load_base(tiny_base).unet)
    kept = {f"weight.{name}": p for name, p in conditioned.adapters.named_parameters()}
    assert furthest(kept, weights(tmp_path)) == 0
    assert all(value.dtype == torch.float32 for value in kept.values())
    assert (tmp_path / "sheet-0000040.png").stat().st_size > 500
    assert list((tmp_path / "tensorboard").glob("events.*"))
    # the base alone has the same loss at every validation; the adapters' falls below it
    validations = [line for line in read_log(tmp_path) if "validation" in line]
    assert [line["step"] for line in validations] == [6, 12, 18, 24, 30, 36, 40]
    assert len({line["validation_stock"] for line in validations}) == 1
    assert validations[-1]["validation"] < validations[-1]["validation_stock"]
    assert validations[-1]["validation"] != validations[-1]["validation_swapped"]


def test_training_starts_at_the_loss_of_the_base(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path, steps=1, learning_rate=1e-9)
    (line,) = read_log(tmp_path)
    assert line["validation"] == pytest.approx(line["validation_stock"], abs=1e-6)


def test_two_passes_of_half_a_batch_are_one_update(tiny_base: Path, tmp_path: Path) -> None:
    whole = train(tiny_base, tmp_path / "whole", steps=4)
    halves = train(tiny_base, tmp_path / "halves", steps=4, batch=2, accumulation=2)
    assert halves.values["loss"] == pytest.approx(whole.values["loss"], rel=1e-5)
    # AdamW divides by the gradient's own size, so float32's last bits grow to some 1e-4 of a step of 1e-2
    assert furthest(weights(tmp_path / "whole"), weights(tmp_path / "halves")) < 2e-4
    train(tiny_base, tmp_path / "half", steps=4, batch=2)
    assert furthest(weights(tmp_path / "whole"), weights(tmp_path / "half")) > 2e-3


def test_a_run_is_continued_with_the_same_settings_alone(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "whole")
    train(tiny_base, tmp_path / "parts", steps=5)
    assert [line["step"] for line in read_log(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    for changes, says in (
        ({"seed": 1}, "data"),
        ({"learning_rate": 1e-3}, "learning_rate 0.01 is expected, received 0.001"),
        ({"batch": 3}, "update 4 is expected, received 3"),
    ):
        with pytest.raises(CheckpointError, match=f"is of another run: .*{says}.*give the same again"):
            train(tiny_base, tmp_path / "parts", **changes)  # type: ignore[arg-type]
    train(tiny_base, tmp_path / "parts")
    one, other = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert furthest(one, other) == 0
    logs = [
        [{**line, "samples_per_second": 0} for line in read_log(tmp_path / d)] for d in ("whole", "parts")
    ]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]
    assert (
        furthest(weights(tmp_path / "whole"), {n: v + 1e-6 for n, v in weights(tmp_path / "parts").items()})
        > 0
    )


def test_recomputing_changes_memory_alone(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "plain", steps=2)
    train(tiny_base, tmp_path / "recomputed", steps=2, recompute=True)
    assert furthest(checkpoint(tmp_path / "plain"), checkpoint(tmp_path / "recomputed")) == 0
    base = load_base(tiny_base)
    conditioned = randomise_adapters(ConditionedUNet(base.unet))
    latent, text = torch.randn(2, 4, 8, 8), torch.randn(2, base.text_length, 32)
    cache = {site.name: torch.randn(1, 16, site.width) for site in conditioned.sites}

    def saved_values(recompute: bool) -> int:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            conditioned(latent, 5, text, cache, recompute=recompute)
        return sum(kept)

    assert saved_values(True) < 0.5 * saved_values(False)


def test_in_bf16_the_base_is_rounded_and_the_adapters_are_not(tiny_base: Path, tmp_path: Path) -> None:
    done = train(tiny_base, tmp_path, precision="bf16", steps=3)
    kept = weights(tmp_path)
    assert {value.dtype for value in kept.values()} == {torch.float32}
    assert any(not torch.equal(value, value.bfloat16().float()) for value in kept.values())
    # they belong to the base as it is on disk, not to the rounded one
    load_adapters(done.adapters, load_base(tiny_base).unet)


MUON: dict[str, Any] = {"optimizer": "muon", "schedule": "cosine", "stratified": True, "learning_rate": 1e-2}


def test_with_muon_and_pairs_it_learns_and_recommends_its_guidance(tiny_base: Path, tmp_path: Path) -> None:
    pairs = Toys(5, subjects=2)
    done = train(tiny_base, tmp_path, pairs=pairs, steps=40, ema="none", recommend=True, **MUON)
    lines = read_log(tmp_path)
    assert lines[-1]["validation"] < 0.99 * lines[-1]["validation_stock"]
    assert lines[-1]["learning_rate"] < 0.03 * max(line["learning_rate"] for line in lines)
    _, metadata = read_adapters(done.adapters)
    assert declare_guidance(metadata).guidance_scale == TINY.guidance
    assert json.loads((tmp_path / "losses.json").read_text())["losses"] == [
        pytest.approx(line["loss"], abs=1e-6) for line in lines
    ]
    kept = checkpoint(tmp_path)
    by_muon = {name.split(".", 1)[1] for name in kept if name.startswith("momentum_buffer.")}
    by_adamw = {name.split(".", 1)[1] for name in kept if name.startswith("exp_avg.")}
    assert not by_muon & by_adamw
    assert {kept[f"weight.{name}"].ndim for name in by_muon} == {2}
    assert by_muon | by_adamw == {name.removeprefix("weight.") for name in weights(tmp_path)}


def test_steps_of_pairs_are_those_that_the_preset_says(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path / "singles", steps=6, pairs_every=3, validation=0)
    train(tiny_base, tmp_path / "pairs", steps=6, pairs_every=3, validation=0, pairs=Toys(5, subjects=2))
    singles, pairs = ([line["loss"] for line in read_log(tmp_path / name)] for name in ("singles", "pairs"))
    assert pairs[:2] == singles[:2]
    assert pairs[2] != singles[2]


def test_samples_that_workers_read_ahead_are_the_same(tiny_base: Path, tmp_path: Path) -> None:
    preset, pairs = TINY.replaced(validation=0), Toys(5, subjects=2)
    for workers in (0, 2):
        train(tiny_base, tmp_path / str(workers), preset, pairs, steps=6, pairs_every=3, workers=workers)
    assert furthest(checkpoint(tmp_path / "0"), checkpoint(tmp_path / "2")) == 0
    train(tiny_base, tmp_path / "other", preset, pairs, steps=6, pairs_every=2)
    assert furthest(checkpoint(tmp_path / "0"), checkpoint(tmp_path / "other")) > 0


def test_a_run_with_muon_and_pairs_continues_to_the_same_weights(tiny_base: Path, tmp_path: Path) -> None:
    preset, pairs = TINY.replaced(validation=0, optimizer="muon", stratified=True), Toys(5, subjects=2)
    train(tiny_base, tmp_path / "whole", preset, pairs, steps=10)
    for steps in (5, 10):
        train(tiny_base, tmp_path / "parts", preset, pairs, steps=steps)
    assert furthest(checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")) == 0
    with pytest.raises(CheckpointError, match=r"optimizer 'muon' is expected, received 'adamw'"):
        train(tiny_base, tmp_path / "parts", preset, pairs, optimizer="adamw")
    with pytest.raises(CheckpointError, match=r"data .* is expected, received"):
        train(tiny_base, tmp_path / "parts", preset)
    train(tiny_base, tmp_path / "falling", preset, steps=2, schedule="cosine")
    with pytest.raises(CheckpointError, match=r"steps 2 is expected, received 3"):
        train(tiny_base, tmp_path / "falling", preset, steps=3, schedule="cosine")


def test_a_checkpoint_without_the_newer_values_is_continued(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path, validation=0, steps=2)
    tensors = checkpoint(tmp_path)
    with safe_open(tmp_path / NAME, framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    for name in ("optimizer", "schedule", "stratified", "pairs_every", "further_timestep"):
        del state["origin"]["preset"][name]
    save_file(tensors, tmp_path / NAME, {"state": json.dumps(state)})
    assert train(tiny_base, tmp_path, validation=0, steps=4).steps == 4
    with pytest.raises(CheckpointError, match="optimizer 'adamw' is expected, received 'muon'"):
        train(tiny_base, tmp_path, validation=0, steps=4, optimizer="muon")


def test_a_checkpoint_of_the_old_miniature_trainer_is_told_apart(tiny_base: Path, tmp_path: Path) -> None:
    state = json.dumps({"step": 3, "seconds": 1.0, "losses": [1.0, 0.9, 0.8]})
    save_file({"master.mid.to_q.weight": torch.zeros(2, 2)}, tmp_path / NAME, {"state": state})
    with pytest.raises(
        CheckpointError, match=r"miniature's trainer of version 0\.1, which is gone"
    ) as caught:
        train(tiny_base, tmp_path)
    assert "\n" not in str(caught.value)


def spoil_base(folder: Path, copy: Path, value: float) -> Path:
    """A copy of a base with `value` as one of its weights."""
    shutil.copytree(folder, copy)
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"][0, 0, 0, 0] = value
    save_file(tensors, path, {"format": "pt"})
    return copy


def test_a_base_of_nan_is_refused_while_loading(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"unet of .* not finite numbers in conv_in\.weight"):
        train(spoil_base(tiny_base, tmp_path / "base", torch.nan), tmp_path / "run")
    assert not (tmp_path / "run" / NAME).exists()


def test_a_base_that_overflows_stops_at_the_first_step(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"loss is (nan|inf) at step 0 \(sample toy\d") as caught:
        train(spoil_base(tiny_base, tmp_path / "base", 3e38), tmp_path / "run")
    assert "there is no checkpoint yet" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DreamCacheError)
    assert not (tmp_path / "run" / NAME).exists()


def test_the_state_of_torch_generator_before_a_run_does_not_reach_its_checkpoint(
    tiny_base: Path, tmp_path: Path
) -> None:
    for name, before, seed in (("one", 1, 0), ("two", 2, 0), ("other", 1, 1)):
        torch.manual_seed(before)
        train(tiny_base, tmp_path / name, steps=2, seed=seed)
    one, two, other = ((tmp_path / name / NAME).read_bytes() for name in ("one", "two", "other"))
    assert one == two
    assert one != other


def test_numbers_that_turn_nan_leave_the_last_good_checkpoint(tiny_base: Path, tmp_path: Path) -> None:
    train(tiny_base, tmp_path, steps=5)
    kept = (tmp_path / NAME).read_bytes()
    (path,) = (tmp_path / "encoded").rglob("*.safetensors")
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    tensors["text"][:, 0, 0] = torch.nan
    save_file(tensors, path, about)
    with pytest.raises(
        DivergenceError, match=r"at step \d+ \(sample toy\d, timestep \d+\): its encoded"
    ) as caught:
        train(tiny_base, tmp_path)
    assert f"the last good checkpoint is {tmp_path / NAME}" in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == kept
    load_adapters(tmp_path / ADAPTERS, load_base(tiny_base).unet)


def test_a_learning_rate_that_explodes_stops(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"at step [1-9]"):
        train(tiny_base, tmp_path, learning_rate=1e30, warmup=0, ema="none", validation=0)


@pytest.mark.parametrize("how", ["truncated", "no state", "lacks"])
def test_a_damaged_checkpoint_is_refused_in_one_line(tiny_base: Path, tmp_path: Path, how: str) -> None:
    train(tiny_base, tmp_path, steps=2, validation=0)
    path = tmp_path / NAME
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        tensors = load_file(path)
        name = next(name for name in tensors if name.startswith("exp_avg."))
        save_file(
            {k: v for k, v in tensors.items() if how != "lacks" or k != name},
            path,
            about if how == "lacks" else {"state": json.dumps({"format": "other"})},
        )
    with pytest.raises(CheckpointError, match=r"cannot continue from .*delete the file") as caught:
        train(tiny_base, tmp_path, steps=3, validation=0)
    assert "\n" not in str(caught.value)


def test_data_and_base_must_go_together(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"more than 9 samples are expected.*received 9"):
        train(tiny_base, tmp_path, validation=9)
    with pytest.raises(SettingsError, match=r"resolution is 30 and the pictures are read at 32"):
        train(tiny_base, tmp_path, resolution=30)
    with pytest.raises(SettingsError, match=r"resolution is 30.*multiples of 4"):
        finetune(str(tiny_base), Toys(resolution=30), tmp_path, TINY.replaced(resolution=30))
    assert TINY.resolution == 32
