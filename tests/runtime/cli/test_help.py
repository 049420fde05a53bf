"""The help of every command: options in panels, and no text that rich would take for markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
from rich.text import Text

from dreamcache.runtime.cli import main as cli
from dreamcache.runtime.cli.generate import generate


def _help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main([*arguments, "--help"])
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("columns", ["80", "120"])
def test_generate_shows_its_options_in_three_panels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = _help(capsys, "generate")
    assert re.findall(r"╭─ (.+?) ─", shown) == [
        "Arguments", "Options", "Picture", "Memory and speed", "Output",
    ]  # fmt: skip
    assert max(len(line) for line in shown.splitlines()) == int(columns)
    loose = shown.split("╭─ Options")[1].split("╭─ Picture")[0]
    assert re.findall(r"--[\w-]+", loose) == ["--help"]


def _texts(command: Callable[..., object]) -> list[str]:
    """Every help text of a typer command."""
    app = typer.Typer(add_completion=False)
    app.command()(command)
    built = typer.main.get_command(app)
    return [built.help or "", *(getattr(option, "help", None) or "" for option in built.params)]


def test_no_help_of_the_runner_is_markup() -> None:
    for entry in entry_points(group=cli.GROUP):
        if entry.module.startswith("dreamcache.runtime."):
            for text in _texts(entry.load()):
                assert Text.from_markup(text).plain == text
    assert Text.from_markup("width [w] px").plain != "width [w] px", "what this test looks for"


def test_text_of_the_user_is_shown_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as left:
        cli.main(["[red]paint[/red]"])
    assert left.value.code == 2
    assert "'[red]paint[/red]'" in capsys.readouterr().err


def test_generate_is_where_its_entry_point_says() -> None:
    (entry,) = entry_points(group=cli.GROUP, name="generate")
    assert entry.load() is generate
    assert Path(generate.__code__.co_filename).name == "generate.py"
