"""`dreamcache evaluate toys`: what is written and shown, and one line for what does not go together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dreamcache.models.bases.base import MINI_ADAPTERS
from dreamcache.runtime.cli import main as cli
from dreamcache.training.evaluation.toys.benchmark import CONDITIONS, ON_WHITE
from dreamcache.training.evaluation.toys.pairs import PAIR_CONDITIONS

MINI = MINI_ADAPTERS.parent
FEW = ("--identities", "2", "--scenes", "1", "--steps", "2")


def status(*arguments: str, command: tuple[str, ...] = ("toys",)) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", *command, *arguments])
    return int(left.value.code or 0)


def test_pictures_of_one_toy_and_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "record.json"
    assert status(*FEW, "--pairs", "3", "--captions", "4", "--json", str(path)) == 0
    record = json.loads(path.read_text())
    assert set(record["results"]) == set(CONDITIONS)
    assert record["settings"]["steps"] == 2
    assert record["pairs"]["pictures"] == 3
    assert record["captions"]["of_each"] == 4
    assert set(record["captions"]["results"]) >= {"kind", "scene", "named", "style"}
    of_two = record["pairs"]["results"]
    assert list(of_two) == list(PAIR_CONDITIONS)
    shares = [scores["own"] for scores in of_two.values()]
    assert all(0 <= share["low"] <= share["mean"] <= share["high"] <= 1 for share in shares)
    shown = capsys.readouterr().out
    assert "left alone" in shown
    assert f"{of_two['joined']['own']['mean']:.1%}" in shown


def test_without_pairs_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert status(*FEW, "--condition", "text_only", "--json", str(path)) == 0
    record = json.loads(path.read_text())
    assert set(record["results"]) == {"text_only"}
    assert "pairs" not in record


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pairs", "3", "--bundle", "{folder}"), "Invalid value for '--pairs'"),
        (("--captions", "3", "--bundle", "{folder}"), "Invalid value for '--captions'"),
        (("--pairs", "3", "--benchmark", "{folder}"), "No such option: --benchmark"),
        (("--reference-image", "1"), "No such option: --reference-image"),
        (("--step-cache", "2"), "belongs to --bundle"),
        (("--scenes", "13"), "Invalid value for '--scenes'"),
        (
            ("--condition", "dreamcache", "--condition", "nothing"),
            "one of text_only, dreamcache, wrong_cache, from_scene is expected",
        ),
    ],
)
def test_options_that_do_not_go_together(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(folder=tmp_path) for argument in arguments]
    assert status(*given, "--json", str(tmp_path / "record.json")) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--identities", "1", "--scenes", "1", "--bundle", str(tmp_path / "nowhere")) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nowhere" in captured.err
    assert captured.err.count("\n") == 1, captured.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--identities", "3", "--json", "a b"), "`dreamcache evaluate toys --identities 3 --json 'a b'`"),
        (
            ("--bundle", "x", "--benchmark", "folder", "--images", "2"),
            "`dreamcache evaluate dreambooth folder --bundle x --images 2`",
        ),
        (("--benchmark=folder",), "`dreamcache evaluate dreambooth folder`"),
    ],
)
def test_old_spellings_are_answered_with_the_new_one(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*arguments, command=()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert said in captured.err
    assert status("--help", command=()) == 0
    assert "dreambooth" in capsys.readouterr().out


def test_references_in_scenes_are_asked_of_models_with_a_segmenter_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    shutil.copytree(MINI, base, ignore=shutil.ignore_patterns("segmenter"))
    adapters = str(MINI / "adapters.safetensors")
    asked = ("--base", str(base), "--adapters", adapters, *FEW, "--json", str(tmp_path / "record.json"))
    assert status(*asked, "--condition", "from_scene") == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert "from_scene: a base or bundle with a segmenter is expected" in captured.err
    assert status(*asked) == 0  # all that it can
    assert set(json.loads((tmp_path / "record.json").read_text())["results"]) == set(ON_WHITE)
