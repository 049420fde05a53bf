"""`dreamcache evaluate` on drawn toys: what is written and shown, and one line for what does not go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dreamcache.runtime.cli import main as cli
from dreamcache.training.evaluation.toys.benchmark import CONDITIONS
from dreamcache.training.evaluation.toys.pairs import PAIR_CONDITIONS

FEW = ("--identities", "2", "--scenes", "1", "--steps", "2")


def status(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", *arguments])
    return int(left.value.code or 0)


def test_pictures_of_one_toy_and_of_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "record.json"
    assert status(*FEW, "--pairs", "3", "--json", str(path)) == 0
    record = json.loads(path.read_text())
    assert set(record["results"]) == set(CONDITIONS)
    assert record["settings"]["steps"] == 2
    assert record["pairs"]["pictures"] == 3
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


@pytest.mark.parametrize("other", ["--bundle", "--benchmark"])
def test_pairs_are_made_by_pytorch_from_drawn_toys(
    other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("--pairs", "3", other, str(tmp_path), "--json", str(tmp_path / "record.json")) == 2
    assert "Invalid value for '--pairs'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
