"""What the documents' shell blocks tell a reader to run is run on the miniature, or marked with where else it is."""

from __future__ import annotations

import re
import shlex
import shutil
from functools import cache
from pathlib import Path

import pytest

from dreamcache.runtime.cli import main as cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Commands that are not run here: what marks them, why, and the tests that run their like.
MARKS = {
    r"owner/name|^push ": ("asks the Hub", "tests/runtime/bundle/test_hub.py"),
    r"^(train|demo|ablate|evaluate|synthesize) ": ("takes hours, or data and weights", "tests/training"),
    r"^(export|convert) ": ("takes a minute or a base", "tests/export"),
    r"^(bench|fit) ": ("measures for minutes", "tests/benchmarks"),
    r"^web ": ("serves until it is stopped", "tests/runtime/web"),
    r"--segmenter ": ("needs somebody's model", "tests/runtime/reference/test_salient.py"),
    r"--coreml": ("needs Core ML packages", "tests/export/coreml/checks/test_verify.py"),
}
# What stands for a reader's own bundle and photograph.
OWN_BUNDLES, PHOTOGRAPHS = {"BUNDLE", "bundle", "b8", "b"}, ("photo.jpg", "subject.jpg", "toy.jpg", "toy.png")


def commands(text: str) -> list[str]:
    """`dreamcache …` in blocks of code, without the program's name and what stands before it."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"^    (.+)$", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [
        match[1]
        for line in lines
        if not line.startswith("adb ") and (match := re.search(r"(?:^|[ /])dreamcache ([a-z].*)", line))
    ]


def marks(command: str) -> list[str]:
    return [mark for mark in MARKS if re.search(mark, command)]


def status(command: str) -> int:
    """Of a command on the miniature in the place of a reader's bundle, in two steps."""
    words = ["mini" if word in OWN_BUNDLES else word for word in shlex.split(command)]
    if words[0] == "verify":
        return left_with_once(*words)
    return left_with(*words, *(["--steps", "2"] if words[0] == "generate" else []))


def left_with(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    return int(left.value.code or 0)


# Seconds each, and the same from every folder.
left_with_once = cache(left_with)


RUN = {
    page: run
    for page in PAGES
    if (run := [one for one in commands(page.read_text(encoding="utf-8")) if not marks(one)])
}


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_is_not_marked_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    for name in PHOTOGRAPHS:
        shutil.copy(ROOT / "docs" / "images" / "toy.png", name)
    assert [(command, found) for command in RUN[page] if (found := status(command))] == []


def test_every_mark_is_needed_and_leads_to_tests() -> None:
    shown = [command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]
    assert len(shown) > 40
    assert set(MARKS) == {mark for command in shown for mark in marks(command)}
    assert [where for _, where in MARKS.values() if not (ROOT / where).exists()] == []
    assert sum(map(len, RUN.values())) >= 10


def test_a_command_that_fails_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    text = (
        "```sh\n. dream/bin/activate\ntaskset -c 4 dreamcache inspect nowhere.png\nthe dreamcache way\n```\n"
    )
    (command,) = [one for one in commands(text) if one.startswith("inspect")]
    assert status(command) != 0
    assert "nowhere.png" in capsys.readouterr().err
