"""Every `dreamcache …` command in the documents is one that exists, with options that it takes."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        *(
            ROOT / name
            for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "benchmarks/peers/README.md")
        ),
        *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")),
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
}
CALL = re.compile(r"\bdreamcache(?:\.runtime\.cli)? ([a-z][^`\n]*)")


def calls_in(text: str) -> list[list[str]]:
    """The words after the program's name, wherever a page shows a command."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"^    (.+)$", text, re.MULTILINE)
    quoted = [re.sub(r"\s+", " ", part) for part in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return [found[1].split() for part in [*blocks, *quoted] for found in CALL.finditer(part)]


@cache
def _loaded(name: str) -> Any:
    """The click command behind an entry point; None where there is none."""
    found = [entry for entry in entry_points(group="dreamcache.commands") if entry.name == name]
    if not found:
        return None
    command = found[0].load()
    app = command if isinstance(command, typer.Typer) else typer.Typer()
    if command is not app:
        app.command(name)(command)
    return typer.main.get_command(app)


def faults(words: list[str]) -> list[str]:
    """A command that does not exist, or those of its options that do not."""
    command, path = _loaded(words[0]), words[:1]
    if command is None:
        return [words[0]]
    for word in words[1:]:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command, path = command.commands[word], [*path, word]
    known = {"--help", *(name for one in command.params for name in (*one.opts, *one.secondary_opts))}
    asked = [match[0] for word in words[len(path) :] if (match := re.match(r"--[a-z][\w-]*", word))]
    return [f"{' '.join(path)} {option}" for option in asked if option not in known]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_their_options_exist(page: str) -> None:
    pytest.importorskip("torch")
    assert [fault for words in calls_in(PAGES[page]) for fault in faults(words)] == []


def test_what_does_not_exist_is_noticed() -> None:
    shown = (
        "`dreamcache draw x`, `dreamcache fit b8\n--budgets 5M`\n```sh\ndreamcache generate b \\\n  --colour red\n```\n"
        "    dreamcache bench b8 --quick\nthe dreamcache way\n"
    )
    assert [fault for words in calls_in(shown) for fault in faults(words)] == [
        "generate --colour",
        "draw",
        "fit --budgets",
    ]
    assert sum(len(calls_in(text)) for text in PAGES.values()) > 60
