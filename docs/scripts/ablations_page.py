"""Fill the tables of docs/ablations.md from the records in docs/results/ablations.

    python docs/scripts/ablations_page.py

Between `<!-- NAME -->` and `<!-- end -->` stands the table of docs/results/ablations/NAME.json.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "ablations.md"
RECORDS = ROOT / "docs" / "results" / "ablations"


def as_markdown(record: dict[str, Any]) -> str:
    """The rows of a record as a table."""
    lines = [
        "| | identity accuracy | body / accent / pattern | scene | colour ΔE | adapters |",
        "|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        scores, training = row["scores"], row["training"]
        identity = scores["identity_accuracy"]
        cells = (
            row["name"],
            f"{identity['mean']:.1%} [{identity['low']:.1%}, {identity['high']:.1%}]",
            " / ".join(f"{value:.0%}" for value in scores["attributes"].values()),
            f"{scores['scene_accuracy']['mean']:.1%}",
            f"{scores['colour_distance']['mean']:.1f}",
            f"{training['parameters'] / 1e3:,.0f}K" if training else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def filled(page: str) -> str:
    """The page with every table as its record says."""

    def table(found: re.Match[str]) -> str:
        record = json.loads((RECORDS / f"{found[1]}.json").read_text(encoding="utf-8"))
        return f"<!-- {found[1]} -->\n{as_markdown(record)}\n<!-- end -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
