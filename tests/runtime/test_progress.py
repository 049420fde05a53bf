"""Bars on stderr: drawn on a terminal after a moment, silent or one line a stage elsewhere."""

from __future__ import annotations

import sys

import pytest

from dreamcache.runtime import progress
from dreamcache.runtime.errors import BundleError, first_line
from dreamcache.runtime.progress import progress_bar, stage_bar, track


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stderr that takes bars, and no waiting."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "_PATIENCE_S", -1.0)


@pytest.mark.usefixtures("terminal")
def test_a_bar_shows_its_title_share_and_values_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("adapters") as advance:
        advance(1, 4, loss=0.25)
    shown = capsys.readouterr()
    assert "adapters" in shown.err
    assert "25%" in shown.err
    assert "loss 0.2500" in shown.err
    assert shown.out == ""


@pytest.mark.usefixtures("terminal")
def test_a_bar_that_is_not_wanted_stays_away(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("adapters", shown=False) as advance:
        advance(1, 4)
    assert capsys.readouterr().err == ""


def test_short_work_shows_no_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(track([1, 2], "encoding")) == [1, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("terminal")
def test_what_a_loop_runs_over_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abcd"), "encoding", total=4)) == list("abcd")
    shown = capsys.readouterr().err
    assert "encoding" in shown
    assert "100%" in shown


def test_a_stage_is_one_line_where_no_bar_can_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert not sys.stderr.isatty()
    with stage_bar() as show:
        show("graphs", 0, 2)
        show("graphs", 1, 2)
        show("parity", 1, 2)
    assert capsys.readouterr().err == "graphs\nparity\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("  first\nsecond"), "first"),
        (ValueError("\n"), "ValueError"),
        (BundleError(), "BundleError"),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line
