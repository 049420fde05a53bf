"""A newcomer's times on the page are those of the record, and the record's commands those of the README."""

from __future__ import annotations

import json
import re

import pytest
from newcomer import INSTALLS, ROOT, first_picture

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "start" / "install.md").read_text(encoding="utf-8")
RECORD = json.loads((ROOT / "docs" / "results" / "newcomer.json").read_text(encoding="utf-8"))


def rows(page: str) -> list[list[str]]:
    """Whole time, installing, environment and version of each row of the table."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")][1:]
        for line in page.splitlines()
        if re.search(r"\| \d+\.\d s \|", line)
    ]


def test_the_page_has_the_record() -> None:
    measured = [
        [
            f"{way['total_seconds']} s",
            f"{way['seconds']['install']} s",
            f"{way['environment_mb']} MB",
            f"dreamcache {way['version']}",
        ]
        for way in RECORD["ways"].values()
    ]
    assert rows(PAGE) == measured
    assert rows(PAGE.replace(f"| {measured[0][2]} |", "| 99 MB |")) != measured
    assert RECORD["cpu"] in PAGE


@pytest.mark.parametrize("way", INSTALLS)
def test_what_is_timed_is_the_readme(way: str) -> None:
    assert first_picture(way, README) == RECORD["ways"][way]["commands"]
    assert len(first_picture(way, README)) == {"python": 1, "shell": 2, "demo": 1}[way]
    assert (
        first_picture("shell", README.replace("dreamcache cache mini", "dreamcache keep mini"))
        != RECORD["ways"]["shell"]["commands"]
    )
