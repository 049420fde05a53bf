"""The training loop: rates, and runs that are killed, poisoned or damaged."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_run import SCHEDULE, tiny_loss, tiny_network, train
from torch import Tensor, nn

from dreamcache.runtime.errors import DreamCacheError
from dreamcache.training.errors import CheckpointError
from dreamcache.training.miniature.loop import Run, Schedule, step_generator


def start(directory: Path, network: nn.Module, schedule: Schedule = SCHEDULE) -> Run:
    return Run(directory, dict(network.named_parameters()), schedule)


def state(directory: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(directory / "checkpoint.safetensors")
    return tensors


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    directory = tmp_path_factory.mktemp("run") / "whole"
    train(directory)
    return directory


def test_the_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    schedule = Schedule(steps=100, batch=1, learning_rate=0.5, warmup=10, final_rate=0.1)
    assert schedule.rate(0) == pytest.approx(0.05)
    assert schedule.rate(9) == schedule.rate(10) == pytest.approx(0.5)
    assert schedule.rate(55) == pytest.approx(0.5 * (0.1 + 0.9 / 2))
    assert schedule.rate(100) == pytest.approx(0.05)
    falling = [schedule.rate(step) for step in range(10, 101)]
    assert falling == sorted(falling, reverse=True)
    # warm-up longer than the run is no division by zero
    assert math.isfinite(Schedule(steps=5, batch=1, learning_rate=1.0, warmup=5).rate(5))


def test_a_constant_rate_falls_at_the_end_alone_and_can_be_prolonged() -> None:
    short, long = (
        Schedule(steps=steps, batch=1, learning_rate=0.5, warmup=10, final_rate=0.1, cooldown=0.2)
        for steps in (100, 1000)
    )
    assert short.rate(0) == pytest.approx(0.05)
    assert {short.rate(step) for step in range(10, 81)} == {0.5}
    assert [short.rate(step) for step in range(81)] == [long.rate(step) for step in range(81)]
    assert long.rate(90) == 0.5 > short.rate(90) == pytest.approx(0.5 * (0.1 + 0.9 * (1 - 0.5**0.5)))
    assert short.rate(100) == pytest.approx(0.05)
    cosine = Schedule(steps=100, batch=1, learning_rate=0.5, warmup=10, final_rate=0.1)
    assert cosine.rate(80) < 0.2


def test_the_numbers_of_a_step_are_its_own() -> None:
    first = torch.rand(4, generator=step_generator(1, 2))
    assert torch.equal(torch.rand(4, generator=step_generator(1, 2)), first)
    assert not torch.equal(torch.rand(4, generator=step_generator(1, 3)), first)
    assert not torch.equal(torch.rand(4, generator=step_generator(2, 2)), first)


def test_the_loss_falls_and_the_average_is_what_is_left(tmp_path: Path) -> None:
    network = tiny_network()
    schedule = replace(SCHEDULE, steps=60, checkpoint_every=60)
    run = start(tmp_path, network, schedule)
    run.train(tiny_loss(network, schedule.batch, schedule.seed))
    assert sum(run.losses[-10:]) < 0.8 * sum(run.losses[:10])
    kept = state(tmp_path)
    for name, parameter in network.named_parameters():
        average = kept[f"average.{name}"].view_as(parameter)
        assert torch.equal(parameter, average.bfloat16())
        assert not torch.equal(average, kept[f"master.{name}"].view_as(parameter))
    record = json.loads((tmp_path / "losses.json").read_text())
    assert record["losses"] == run.losses
    assert record["schedule"]["learning_rate"] == 1e-2
    assert (tmp_path / "losses.png").stat().st_size > 1000


def test_what_a_loss_yields_is_added_up(tmp_path: Path) -> None:
    def losses(*shares: float) -> list[float]:
        network = tiny_network()
        run = start(tmp_path / str(shares), network)
        whole = tiny_loss(network, SCHEDULE.batch, SCHEDULE.seed)
        run.train(lambda step: (whole(step) * share for share in shares))
        return run.losses

    assert losses(0.25, 0.75) == pytest.approx(losses(1.0), rel=0.02)
    assert losses(0.25, 0.5) != pytest.approx(losses(1.0), rel=0.02)


def test_killed_at_any_moment_it_continues_to_the_same_weights(tmp_path: Path, uninterrupted: Path) -> None:
    context = get_context("forkserver")
    context.set_forkserver_preload(["dreamcache.training.miniature.loop"])
    directory = tmp_path / "killed"
    # (step before which the run waits; seconds from then on until it is killed, None: it is killed as it waits).
    # A checkpoint follows steps 3, 7 and 11: the delays fall before, into or after its writing.
    moments = ((2, None), (3, 0.0), (5, None), (7, 0.05), (9, None), (11, 0.2))
    starts = []
    for step, delay in moments:
        ours, theirs = context.Pipe()
        process = context.Process(target=train, args=(directory, step, theirs))
        process.start()
        theirs.close()
        announced = ours.recv()
        starts.append(announced)
        while announced < step:
            announced = ours.recv()
        if delay is not None:
            ours.send("go")
            time.sleep(delay)
        process.kill()
        process.join()
        assert process.exitcode == -9
    assert starts[0] == 0
    assert starts == sorted(starts)
    train(directory)
    assert equal(state(directory), state(uninterrupted))
    losses = [json.loads((d / "losses.json").read_text())["losses"] for d in (directory, uninterrupted)]
    assert losses[0] == losses[1]
    assert not list(directory.glob("*.partial"))


def test_another_seed_does_not_give_the_same_weights(tmp_path: Path, uninterrupted: Path) -> None:
    train(tmp_path / "other", schedule=replace(SCHEDULE, seed=6))
    assert not equal(state(tmp_path / "other"), state(uninterrupted))


def poisoned(network: nn.Module, kind: str) -> Callable[[int], Tensor]:
    """The tiny loss, from step 6 on not finite itself, or with a gradient that is not."""
    healthy = tiny_loss(network, SCHEDULE.batch, SCHEDULE.seed)

    def loss(step: int) -> Tensor:
        result = healthy(step)
        if step < 6:
            return result
        return result * float("nan") if kind == "loss" else result + (result * 0).sqrt()

    return loss


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_the_run_and_spares_the_checkpoint(
    tmp_path: Path, kind: str
) -> None:
    network = tiny_network()
    run = start(tmp_path, network)
    with pytest.raises(FloatingPointError, match=rf"{kind}.* is nan at step 6; the last checkpoint is .*"):
        run.train(poisoned(network, kind))
    assert run.step == 6
    assert all(value.isfinite().all() for value in state(tmp_path).values())
    again = start(tmp_path, tiny_network())
    assert again.step == 4
    assert len(again.losses) == 4


def damage(path: Path, how: str) -> None:
    """Spoil a checkpoint."""
    data = path.read_bytes()
    # copies: what is loaded lies in the file that is about to be overwritten
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no state":
        save_file(tensors, path)
    elif how == "another shape":
        save_file({**tensors, "master.0.bias": torch.zeros(3)}, path, {"state": "{}"})
    elif how == "lacks a weight":
        del tensors["average.0.weight"]
        save_file(tensors, path, {"state": "{}"})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", ""),
        ("empty", ""),
        ("no state", ""),
        ("another shape", r"master\.0\.bias is \[3\], expected \[16\]"),
        ("lacks a weight", r"average\.0\.weight"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(
    tmp_path: Path, uninterrupted: Path, how: str, says: str
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes((uninterrupted / "checkpoint.safetensors").read_bytes())
    start(tmp_path, tiny_network())  # whole, it is taken
    damage(path, how)
    spoilt = path.read_bytes()
    with pytest.raises(CheckpointError, match=f"cannot continue from .*{says}.*delete the file") as caught:
        start(tmp_path, tiny_network())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DreamCacheError)
    assert path.read_bytes() == spoilt
