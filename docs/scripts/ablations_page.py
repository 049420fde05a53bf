"""Fill the tables of docs/findings/ablations.md from the records in docs/results/ablations.

    python docs/scripts/ablations_page.py

Between `<!-- NAME -->` and `<!-- end -->` stands the table of docs/results/ablations/NAME.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dreamcache.training.ablations.columns import cells, columns

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "findings" / "ablations.md"
RECORDS = ROOT / "docs" / "results" / "ablations"


def as_markdown(record: dict[str, Any]) -> str:
    """The rows of a record as a table."""
    titles = columns(record)
    lines = [f"| | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    lines += [f"| {' | '.join((row['name'], *cells(row, titles)))} |" for row in record["rows"]]
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with every table as its record says."""

    def table(found: re.Match[str]) -> str:
        record = json.loads((RECORDS / f"{found[1]}.json").read_text(encoding="utf-8"))
        return f"<!-- {found[1]} -->\n{as_markdown(record)}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
