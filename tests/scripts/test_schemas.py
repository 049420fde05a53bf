"""The committed JSON schemas are those of the code, and refuse what the code refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import schemas

from dreamcache.runtime.bundle.folder import MINI_FOLDER

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["contract", "record"])
def test_the_committed_schema_is_the_codes(name: str) -> None:
    committed = (ROOT / "docs" / "reference" / f"{name}.schema.json").read_text(encoding="utf-8")
    assert committed == schemas.schema_text(name), "run: python docs/scripts/schemas.py"


def test_the_shipped_contract_has_the_fields_of_the_schema_and_a_foreign_one_does_not() -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "contract.schema.json").read_text())
    contract = json.loads((MINI_FOLDER / "dreamcache.json").read_text())
    assert set(schema["required"]) <= set(contract) <= set(schema["properties"])
    assert "colour" not in schema["properties"]
    assert schema["additionalProperties"] is False
