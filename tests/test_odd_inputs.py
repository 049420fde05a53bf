"""The page of odd inputs names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/findings/odd-inputs.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def absent(page: str) -> list[str]:
    """Files and tests that a page names and that are not there."""
    found = [(ROOT / file, name) for file, name in NAMED.findall(page)]
    return [
        f"{file.name}::{name}"
        for file, name in found
        if not file.is_file() or (name and f"\ndef {name}(" not in file.read_text(encoding="utf-8"))
    ]


def test_every_row_has_a_test_that_is_there() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| kind")]
    assert len(rows) > 35
    assert [row for row in rows if not NAMED.search(row)] == []
    assert absent(page) == []


def test_an_absent_test_is_seen() -> None:
    assert absent("`tests/fuzz/test_fuzz.py::test_nothing` and `tests/none.py`") == [
        "test_fuzz.py::test_nothing",
        "none.py::",
    ]
