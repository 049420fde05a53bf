"""docs/guides/synthesis.md names every option and field, and nothing that does not exist; its example is Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from dreamcache.training.data.command import synthesize
from dreamcache.training.data.models import weights
from dreamcache.training.data.shards.index import ShardRecord, StageIndex

DOCUMENT = (Path(__file__).parents[3] / "docs" / "guides" / "synthesis.md").read_text(encoding="utf-8")


def options() -> dict[str, set[str]]:
    group: Any = typer.main.get_command(synthesize)
    return {
        name: {option for parameter in command.params for option in parameter.opts if option[:2] == "--"}
        for name, command in group.commands.items()
    }


def test_every_option_is_explained_and_exists() -> None:
    known = set().union(*options().values()) - {"--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", DOCUMENT))
    assert known - named == set()
    # of accelerate, which spells its options with underscores
    assert named - known - {"--multi", "--num"} == set()
    assert {"--box-threshold", "--ray"} <= known


def test_every_command_exists() -> None:
    assert set(re.findall(r"synthesize ([a-z]+)", DOCUMENT)) == set(options())


@pytest.mark.parametrize("model", [StageIndex, ShardRecord])
def test_every_field_is_explained(model: type[BaseModel]) -> None:
    quoted = set(re.findall(r"`([a-z0-9_]+)`", DOCUMENT))
    assert set(model.model_fields) - quoted == set()
    assert "colour" not in quoted


def test_default_models_are_those_of_the_code() -> None:
    kinds = (weights.LANGUAGE_MODEL, weights.PIPELINE, weights.DETECTOR, weights.SEGMENTER)
    assert [kind.default for kind in kinds if f"`{kind.default}`" not in DOCUMENT] == []


def test_the_example_is_python() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    ast.parse(block)
