"""The command, and two processes of accelerate beside one with a batch twice as large."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_training import Toys, furthest, weights

from dreamcache.runtime.cli.main import main
from dreamcache.training.adapters.logs import read_log

SETTINGS = (
    "steps=4", "learning_rate=1e-2", "resolution=32", "precision=fp32", "variants=2", "validation=3",
    "validate_every=2", "checkpoint_every=2", "log_every=1", "sheet_rows=0", "tensorboard=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toys as plain files."""
    folder = tmp_path_factory.mktemp("toys")
    for sample in Toys():
        (folder / f"{sample.key}.txt").write_text(sample.caption, encoding="utf-8")
        Image.fromarray(sample.target).save(folder / f"{sample.key}.target.png")
        Image.fromarray(sample.reference).save(folder / f"{sample.key}.reference.png")
    return folder


def arguments(base: Path, data: Path, run: Path, *more: str) -> list[str]:
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    given = ["--base", str(base), "--data", str(data), "--run", str(run), *sets, *more]
    return ["train", "adapters", *given]


def run_command(*parts: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(parts)
    return int(left.value.code or 0)


def test_two_processes_are_one_with_twice_the_batch(
    tiny_base: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(*arguments(tiny_base, toys, tmp_path / "one", "--batch", "4", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["adapters"] == str(tmp_path / "one" / "adapters.safetensors")
    assert record["steps"] == 4
    # `accelerate launch` starts this very module for GPUs, and one process alone with --cpu
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch += ["--module", "--", "dreamcache.runtime.cli"]
    done = subprocess.run(
        [*launch, *arguments(tiny_base, toys, tmp_path / "two", "--batch", "2")],
        capture_output=True, text=True, timeout=150, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adapters.safetensors") == 1, "one of the two tells"
    assert run_command(*arguments(tiny_base, toys, tmp_path / "half", "--batch", "2")) == 0
    one, two, half = (weights(tmp_path / name) for name in ("one", "two", "half"))
    # four steps of 1e-2; where a gradient is all but zero, AdamW enlarges float32's last bits
    assert furthest(one, two) < 4e-3
    assert furthest(one, half) > 2e-2
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-3)


def test_errors_of_the_command(
    tiny_base: Path, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_command(*arguments(tiny_base, toys, run, "--set", "stepz=1")) == 1
    assert capsys.readouterr().err.startswith("dreamcache: a preset has no value named 'stepz'")
    assert run_command(*arguments(tiny_base, tmp_path, run)) == 1
    assert "received none" in capsys.readouterr().err
    assert run_command("train", "base", "--base", str(tiny_base), "--data", "world:9") == 2
    assert run_command("train", "miniature", "adapter") == 2
    assert run_command("train", "adapters", "--base", str(tiny_base)) == 2
    assert run_command("train", "adapters", "--data", "world:9") == 2
    assert run_command(*arguments(tiny_base, toys, run, "--samples", "9")) == 2
    assert run_command("train", "adapters", "--base", "mini", "--data", "world:3+x", "--run", str(run)) == 1
    assert "expected world:N with N samples" in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("base", "--run", "runs/a b"), "`dreamcache train miniature base --run 'runs/a b'`"),
        (("all",), "`dreamcache train miniature all`"),
        (("adapters", "--samples", "9"), "`dreamcache train miniature adapters --samples 9`"),
    ],
)
def test_old_spellings_are_answered_with_the_new_one(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert said in captured.err
