"""docs/reference/api.md lists the public names of each root, no more and no fewer, with their true arguments."""

from __future__ import annotations

import importlib
import inspect
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
ENTRY = re.compile(r"^\| `(\w+(?:\.\w+)*)(?:\(([^)]*)\))?` \| (\S.*) \|$", re.MULTILINE)
ROOTS = ("runtime", "export", "models", "training", "benchmarks")


def entries(page: str) -> dict[str, dict[str, list[str] | None]]:
    """Of each root on a page, the names with their arguments, None where none are shown."""
    return {
        root: {
            name: [part.strip() for part in shown.split(",")] if shown else None
            for name, shown, _ in ENTRY.findall(section)
        }
        for root, section in re.findall(
            r"^## `dreamcache\.(\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL
        )
    }


def wrong_arguments(root: Any, shown: dict[str, list[str] | None]) -> list[str]:
    """Entries that are not there, or take other arguments; "…" stands for those that are left out at the end."""
    wrong = []
    for name, arguments in shown.items():
        try:
            found = reduce(getattr, name.split("."), root)
        except AttributeError:
            wrong.append(name)
            continue
        if arguments is None:
            continue
        taken = [one for one in inspect.signature(found).parameters if one != "self"]
        if arguments[-1] == "…":
            arguments = arguments[:-1]
            taken = taken[: len(arguments)]
        if taken != arguments:
            wrong.append(f"{name}({', '.join(taken)})")
    return wrong


@pytest.mark.parametrize("root", ROOTS)
def test_the_page_lists_the_public_names(root: str) -> None:
    if root not in ("runtime", "benchmarks"):
        pytest.importorskip("torch")
    module, shown = importlib.import_module(f"dreamcache.{root}"), entries(PAGE)[root]
    assert {name for name in shown if "." not in name} == set(module.__all__)
    assert wrong_arguments(module, shown) == []


def test_what_is_wrong_on_a_page_is_noticed() -> None:
    page = (
        "## `dreamcache.runtime`\n| `Subject` | a |\n| `Subject.save(path, …)` | b |\n| `Subject.save(place)` | c |\n"
        "| `Pipeline.lose(path)` | d |\n## `dreamcache.export`\n| `Source` | e |\n"
    )
    found = entries(page)
    assert list(found) == ["runtime", "export"]
    assert found["runtime"] == {"Subject": None, "Subject.save": ["place"], "Pipeline.lose": ["path"]}
    runtime = importlib.import_module("dreamcache.runtime")
    assert wrong_arguments(runtime, found["runtime"]) == ["Subject.save(path, overwrite)", "Pipeline.lose"]
    assert wrong_arguments(runtime, {"Subject.save": ["path", "…"]}) == []


def test_every_root_is_on_the_page() -> None:
    assert set(entries(PAGE)) == set(ROOTS)
    assert "Everything else may change" in PAGE
