"""JSON schemas of the contract (`dreamcache.json`) and of a benchmark's record, for readers in other languages.

    python docs/scripts/schemas.py

writes docs/reference/contract.schema.json and docs/reference/record.schema.json; a test holds them to the code.
"""

from __future__ import annotations

import json
from pathlib import Path

from dreamcache.benchmarks.record import Record
from dreamcache.runtime.bundle.contract import Contract

FOLDER = Path(__file__).parents[1] / "reference"
MODELS = {"contract": Contract, "record": Record}


def schema_text(name: str) -> str:
    """The schema of "contract" or "record" (JSON Schema 2020-12), by the names that the files use."""
    return json.dumps(MODELS[name].model_json_schema(by_alias=True, mode="validation"), indent=1) + "\n"


if __name__ == "__main__":
    for name in MODELS:
        (FOLDER / f"{name}.schema.json").write_text(schema_text(name), encoding="utf-8")
