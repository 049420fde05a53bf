"""Stages that are killed, started again, shared and started twice: nothing is lost, nothing is made twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
from announced import run_announced

from dreamcache.training.data.models.salient import SalientSegmenter
from dreamcache.training.data.models.segmentation import Limits
from dreamcache.training.data.shards.distribution import CLAIMS_NAME, ProcessRank, claim
from dreamcache.training.data.stages.captions import CaptionStage
from dreamcache.training.data.stages.references import ReferenceStage
from dreamcache.training.data.stages.stage import Stage, Summary, run_stage
from dreamcache.training.data.stages.targets import TargetStage
from dreamcache.training.data.stages.world import WorldStage
from dreamcache.training.errors import SynthesisError

COMMAND = [sys.executable, "-m", "dreamcache.runtime.cli", "synthesize"]
ANYTHING = Limits(min_area=0, max_area=1, max_border=1, min_confidence=0, max_objects=99)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != CLAIMS_NAME}


@pytest.mark.parametrize("name", ["captions", "targets", "references"])
def test_killed_at_any_sample_it_ends_in_the_same_bytes(
    tmp_path: Path,
    name: str,
    caption_stage: CaptionStage,
    target_stage: TargetStage,
    targets: Path,
    models: Path,
) -> None:
    def fresh() -> Stage:
        """Without models loaded, so that it can be sent to another process."""
        salient = SalientSegmenter(models / "salient.onnx")
        stages: dict[str, Stage] = {
            "captions": replace(caption_stage),
            "targets": replace(target_stage),
            "references": ReferenceStage(targets, salient, ANYTHING, batch=2),
        }
        return stages[name]

    context = get_context("forkserver")
    context.set_forkserver_preload(
        [f"dreamcache.training.data.{part}" for part in ("captions", "targets", "references", "salient")]
    )
    run_stage(fresh(), tmp_path / "whole", ProcessRank())
    folder = tmp_path / "killed"
    partials = 0
    # (shard, sample) at which the process is killed, None: it is let through; and the shard where it takes up work
    for stop, first in (((0, 0), 0), ((0, 2), 0), ((1, 0), 0), ((2, 1), 1), (None, 2)):
        ours, theirs = context.Pipe()
        process = context.Process(target=run_announced, args=(fresh(), folder, theirs))
        process.start()
        theirs.close()
        seen = []
        while not isinstance(told := ours.recv(), Summary):
            seen.append(told)
            if told == stop:
                break
            ours.send("go")
        if stop is None:
            process.join()
            assert (told.made, told.kept) == (1, 2)
        else:
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            partials += len(list(folder.glob(".*.part")))
        assert seen[0] == (first, 0), "whole shards are not made again"
    assert partials == 4, "the kills fell into the writing"
    assert content(folder) == content(tmp_path / "whole")


def test_the_command_is_killed_again_and_again(tmp_path: Path, environment: dict[str, str]) -> None:
    arguments = ["world", "--samples", "240", "--shard-size", "60", "--seed", "2"]
    folder = tmp_path / "killed"
    for shard in (0, 1, 3):
        process = subprocess.Popen(
            [*COMMAND, *arguments, str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while not list(folder.glob(f".world-{shard:05d}.tar.*.part")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert len(list(folder.glob("world-*.tar"))) == 3
    summary = run_stage(WorldStage(240, seed=2, shard_size=60), folder)
    assert (summary.made, summary.kept, summary.samples) == (1, 3, 240)
    run_stage(WorldStage(240, seed=2, shard_size=60), tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


def test_accelerate_deals_the_shards_and_a_lost_process_is_run_alone(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    folder = tmp_path / "shared"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    # --multi_gpu is what makes it start several processes; without GPUs they run on the CPU
    launch += ["--multi_gpu", "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    command = [*COMMAND[2:], "world", str(folder), "--samples", "25", "--shard-size", "5", "--json"]
    done = subprocess.run(
        [*launch, *command], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda one: one["process"])
    assert [(one["process"], one["processes"], one["made"]) for one in told] == [(0, 2, 3), (1, 2, 2)]
    run_stage(WorldStage(25, shard_size=5), tmp_path / "whole", ProcessRank())
    whole = content(tmp_path / "whole")
    assert content(folder) == whole
    # process 1 lost its disk; it is started again without the other
    for name in ("world-00001.tar", "world-00003.json"):
        (folder / name).unlink()
    alone = run_stage(WorldStage(25, shard_size=5), folder, ProcessRank(1, 2))
    assert (alone.made, alone.kept) == (2, 0)
    assert content(folder) == whole


def test_a_shard_that_another_process_is_at_is_left_to_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [*COMMAND, "world", str(tmp_path), "--samples", "9", "--shard-size", "3", "--json"]
    with claim(tmp_path, 1) as ours:
        assert ours
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        told = json.loads(done.stdout)
        assert (told["made"], told["busy"], told["samples"]) == (2, 1, 6)
    assert not (tmp_path / "world-00001.tar").exists()
    summary = run_stage(WorldStage(9, shard_size=3), tmp_path)
    assert (summary.made, summary.kept, summary.busy) == (1, 2, 0)


def test_ranks_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ProcessRank.from_environment() == ProcessRank(0, 1, 0)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ProcessRank.from_environment() == ProcessRank(5, 8, 1)
    dealt = [shard for rank in range(8) for shard in ProcessRank(rank, 8).shards(21)]
    assert sorted(dealt) == list(range(21))
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(SynthesisError, match=r"RANK: a number below WORLD_SIZE \(8\)"):
        ProcessRank.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(SynthesisError, match="WORLD_SIZE: a whole number is expected, received 'many'"):
        ProcessRank.from_environment()
