"""The forms of .github/ISSUE_TEMPLATE are what GitHub takes as forms, and name files that exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def faults(form: dict[str, Any]) -> list[str]:
    """What GitHub would refuse (docs.github.com, "Syntax for GitHub's form schema")."""
    found = [f"no {name}" for name in ("name", "description", "body") if not form.get(name)]
    elements = form.get("body") or []
    found += [f"type {one.get('type')}" for one in elements if one.get("type") not in KINDS]
    asked = [one for one in elements if one.get("type") != "markdown"]
    found += ["nothing is asked"] if not asked else []
    found += ["no label" for one in asked if not one.get("attributes", {}).get("label")]
    names = [one.get("id", "") for one in asked]
    found += [f"id {name!r}" for name in names if not re.fullmatch(r"[\w-]+", name) or names.count(name) > 1]
    return found


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_each_is_a_form(path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    text = path.read_text(encoding="utf-8")
    assert faults(yaml.safe_load(text)) == []
    assert [name for name in re.findall(r"docs/[\w/.-]+\.md", text) if not (ROOT / name).exists()] == []


def test_what_is_no_form_is_noticed() -> None:
    assert len(FORMS) >= 3
    label = {"attributes": {"label": "What"}}
    twice = [{"type": "input", "id": "one", **label}, {"type": "textarea", "id": "one", **label}]
    assert faults({"name": "x", "body": [*twice, {"type": "text"}]}) == [
        "no description",
        "type text",
        "no label",
        "id 'one'",
        "id 'one'",
        "id ''",
    ]
