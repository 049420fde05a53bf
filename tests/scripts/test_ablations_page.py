"""docs/findings/ablations.md says what the committed records say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType

import ablations_page
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return ablations_page


def test_every_table_is_that_of_its_record(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"<!-- (\w+) -->\n\|", text)
    assert sorted(shown) == sorted(path.stem for path in page.RECORDS.glob("*.json"))
    assert page.filled(text) == text
    assert "FINDING" not in text


def test_another_figure_is_noticed(page: ModuleType) -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    wrong = re.sub(r"\| (\d)(\d\.\d%) \[", lambda found: f"| {9 - int(found[1])}{found[2]} [", text, count=1)
    assert wrong != text
    assert page.filled(wrong) == text


def test_every_record_says_how_it_was_made_and_so_does_the_page(page: ModuleType) -> None:
    records = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in page.RECORDS.glob("*.json")
    }
    text = page.PAGE.read_text(encoding="utf-8")
    for name, record in records.items():
        protocol = record["protocol"]
        assert protocol["base"] == "mini"
        options = {key: protocol[key] for key in ("samples", "steps", "identities", "scenes")}
        assert options in [found for tables, found in commands(text) if name in tables], name
        assert {**options, "steps": 101} not in [found for _, found in commands(text)]


def commands(text: str) -> list[tuple[list[str], dict[str, int]]]:
    """Tables and whole-number options of every ``dreamcache ablate`` of a page; pairs are one table's alone."""
    found = re.findall(r"^dreamcache ablate ((?:[a-z]+ )+)--run \S+((?: --[a-z]+ \d+)+)$", text, re.MULTILINE)
    return [
        (
            tables.split(),
            {key: int(value) for key, value in re.findall(r"--(\w+) (\d+)", options) if key != "pairs"},
        )
        for tables, options in found
    ]
