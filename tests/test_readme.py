"""The README's commands are those that run, its Python is valid, and its links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_ci_runs_the_test_command_of_the_readme_word_for_word() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.endswith("pytest")]
    assert len(commands) == 1
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert commands[0] in lines
    assert commands[0].replace("pytest", "pytest -x") not in lines


def test_the_python_is_valid_and_short() -> None:
    (block,) = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 6
    ast.parse(block)


def test_pictures_and_local_links_exist() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert missing == []


def test_every_command_that_it_names_exists() -> None:
    named = set(re.findall(r"dreamcache (\w+)", " ".join([*blocks("sh"), README])))
    declared = set(re.findall(r'^(\w+) = "dreamcache\.', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    commands = {"demo", "export", "cache", "generate", "inspect", "verify", "train", "evaluate"}
    assert commands <= declared
    assert named & {"bench", "fit", "synthesize"} == set(), "the README names a command that does not exist"
