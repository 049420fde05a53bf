"""What each approximation costs the miniature: accuracy on held-out toys, by options of export and generate.

    python benchmarks/approximations.py --work DIR --json docs/results/approximations.json

Exports the miniature once for each way of exporting, then runs `dreamcache evaluate toys --bundle` for each row; rows
share toys, prompts and seeds. A row that is in the JSON already is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EXPORTS: dict[str, list[str]] = {
    "fp32": [],
    "int8": ["--precision", "int8"],
    "kv2": ["--kv-downsample", "2"],
    "reference2": ["--reference-downsample", "2"],
}
ROWS: dict[str, tuple[str, list[str]]] = {
    "exact": ("fp32", []),
    "int8": ("int8", []),
    "keys and values averaged over 2 × 2": ("kv2", []),
    "reference tokens averaged over 2 × 2": ("reference2", []),
    "guidance in 0 to 0.6 of the steps": ("fp32", ["--guidance-interval", "0", "0.6"]),
    "guidance in 0.2 to 0.8 of the steps": ("fp32", ["--guidance-interval", "0.2", "0.8"]),
    "step caching, every 2nd step in full": ("fp32", ["--step-cache", "2"]),
    "step caching, every 3rd step in full": ("fp32", ["--step-cache", "3"]),
}


def dreamcache(*arguments: str) -> None:
    """Run a command of this installation."""
    subprocess.run([sys.executable, "-m", "dreamcache.runtime.cli", *arguments], check=True)


def main() -> None:
    """Export, evaluate, and write the table's record after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--identities", type=int, default=50)
    parser.add_argument("--scenes", type=int, default=4)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    cases = {"identities": given.identities, "scenes_per_identity": given.scenes}
    record: dict[str, Any] = {**cases, "rows": {}}
    if given.json.exists():
        earlier = json.loads(given.json.read_text(encoding="utf-8"))
        if {name: earlier.get(name) for name in cases} == cases:
            record = earlier
    for title, (export, options) in ROWS.items():
        if title in record["rows"]:
            continue
        bundle, result = given.work / export, given.work / "row.json"
        if not bundle.exists():
            dreamcache("export", "--base", "mini", "--out", str(bundle), *EXPORTS[export])
        dreamcache(
            "evaluate", "toys", "--bundle", str(bundle), "--condition", "dreamcache", "--json", str(result),
            "--identities", str(given.identities), "--scenes", str(given.scenes), *options,
        )  # fmt: skip
        row = json.loads(result.read_text(encoding="utf-8"))
        contract = json.loads((bundle / "dreamcache.json").read_text(encoding="utf-8"))
        record["rows"][title] = {
            "export": EXPORTS[export],
            "options": options,
            "results": row["results"]["dreamcache"],
            "parity": {
                name: contract["parity"][name] for name in ("condition", "trajectory_db", "judged_db")
            },
        }
        given.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
