"""Killed at any moment, a training continues to the weights it would have had, byte for byte."""

from __future__ import annotations

import filecmp
import random
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from killed import lives_through
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_training import TINY, checkpoint, furthest, train, train_announced, weights

from dreamcache.training.adapters.checkpoints import NAME
from dreamcache.training.adapters.logs import read_log
from dreamcache.training.adapters.trainer import ADAPTERS, Trainer

KILLS = 6
# matrices by Muon, the rest by AdamW, at a rate that falls
PRESET = TINY.replaced(
    steps=48, checkpoint_every=3, validate_every=9, optimizer="muon", schedule="cosine", stratified=True
)


@dataclass
class Clock:
    """Seconds that an undisturbed training took in a process of its own."""

    whole: Path
    seconds: float


def start(base: Path, folder: Path) -> ForkServerProcess:
    """A training in a process of its own, which has imported all and read nothing."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["dreamcache.training.adapters.run", "tiny_training"])
    ours, theirs = context.Pipe()
    process = context.Process(target=train_announced, args=(theirs, base, folder, PRESET))
    process.start()
    theirs.close()
    assert ours.recv() == "started"
    return process


@pytest.fixture(scope="module")
def undisturbed(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Clock:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = start(tiny_base, folder)
    started = time.perf_counter()
    process.join()
    assert process.exitcode == 0
    return Clock(folder, time.perf_counter() - started)


def test_killed_many_times_it_ends_with_the_same_bytes(
    tiny_base: Path, tmp_path: Path, undisturbed: Clock
) -> None:
    folder, moments = tmp_path / "killed", random.Random(0)
    kills, window = 0, undisturbed.seconds / 5
    while kills < KILLS or not (folder / NAME).is_file():
        process = start(tiny_base, folder)
        # from the first moment on, before anything is read
        process.join(moments.uniform(0, window))
        process.kill()
        process.join()
        if process.exitcode == 0:
            # it ended before its moment, on a machine that has become faster: all kills once more, sooner
            shutil.rmtree(folder)
            kills, window = 0, window / 2
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        window *= 1 if (folder / NAME).is_file() else 1.3
    assert 0 < read_log(folder)[-1]["step"] < PRESET.steps, "killed on its way"
    process = start(tiny_base, folder)
    process.join()
    assert process.exitcode == 0
    kept, expected = checkpoint(folder), checkpoint(undisturbed.whole)
    assert [n for n in expected if not torch.equal(kept[n], expected[n])] == []
    assert filecmp.cmp(folder / NAME, undisturbed.whole / NAME, shallow=False)
    ours, theirs = (load_file(f / ADAPTERS) for f in (folder, undisturbed.whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    logs = [
        [{k: v for k, v in line.items() if k != "samples_per_second"} for line in read_log(f)]
        for f in (folder, undisturbed.whole)
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == list(range(1, PRESET.steps + 1))


def content(folder: Path) -> dict[str, tuple[dict[str, str], dict[str, bytes]]]:
    """Metadata and tensors of the files that a run keeps; safetensors writes metadata in any order."""
    found = {}
    for name in (NAME, ADAPTERS):
        with safe_open(folder / name, framework="pt") as file:
            tensors = {key: file.get_tensor(key).numpy().tobytes() for key in file.keys()}  # noqa: SIM118
            found[name] = (dict(file.metadata()), tensors)
    return found


def test_killed_at_every_change_of_its_last_files(tiny_base: Path, tmp_path: Path) -> None:
    """What is kept at the end: the old checkpoint and adapters or the new ones, each whole; the next run goes on."""
    train(tiny_base, tmp_path / "half", validation=0, steps=2)
    train(tiny_base, tmp_path / "whole", validation=0, steps=4)
    old, new = content(tmp_path / "half"), content(tmp_path / "whole")
    found, change, lived = set[tuple[bool, ...]](), 0, False
    with pytest.MonkeyPatch.context() as patch:
        trainers: list[Trainer] = []
        patch.setattr(Trainer, "train", lambda trainer: trainers.append(trainer))
        train(tiny_base, tmp_path / "whole", validation=0, steps=4)
    while not lived:
        folder = tmp_path / str(change)
        shutil.copytree(tmp_path / "half", folder)
        trainers[0].folder = folder
        lived = lives_through(change, trainers[0]._save)
        left = content(folder)
        assert all(left[name] in (old[name], new[name]) for name in new), f"before change {change}"
        found.add(tuple(left[name] == new[name] for name in new))
        train(tiny_base, folder, validation=0, steps=4)
        assert content(folder) == new
        change += 1
    assert found == {(False, False), (True, False), (True, True)}


def test_without_its_moments_it_does_not(tiny_base: Path, tmp_path: Path) -> None:
    """What the test above would miss if a continued run forgot the optimiser: other weights come out."""
    train(tiny_base, tmp_path / "whole", validation=0, steps=6)
    folder = tmp_path / "forgetful"
    train(tiny_base, folder, validation=0, steps=4)
    tensors = checkpoint(folder)
    with safe_open(folder / NAME, framework="pt") as file:
        about = file.metadata()
    forgotten = {k: v * 0 if k.startswith("exp_avg.") else v for k, v in tensors.items()}
    save_file(forgotten, folder / NAME, about)
    train(tiny_base, folder, validation=0, steps=6)
    assert furthest(weights(folder), weights(tmp_path / "whole")) > 1e-3
