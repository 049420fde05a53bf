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


def test_every_record_was_made_alike(page: ModuleType) -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in page.RECORDS.glob("*.json")]
    assert len({json.dumps(record["protocol"]) for record in records}) == 1
    text = page.PAGE.read_text(encoding="utf-8")
    protocol = records[0]["protocol"]
    assert f"{protocol['steps']} steps of {protocol['batch']} samples a training" in text
    assert f"{protocol['identities']}\nheld-out toys in {protocol['scenes']} scenes" in text
