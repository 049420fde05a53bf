"""Writes docs/results/bases.json: each altered base, and whether it is equal to diffusers or refused.

PYTHONPATH=tests/support python docs/scripts/altered_bases_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from altered_bases import altered_bases, judged
from tiny_models import write_tiny_base


def main() -> None:
    """Judge all of them."""
    rows = []
    with TemporaryDirectory() as name:
        base = write_tiny_base(Path(name) / "base")
        for i, case in enumerate(altered_bases()):
            rows.append(judged(case, base, Path(name) / str(i))._asdict())
    path = Path(__file__).parents[1] / "results" / "bases.json"
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
