"""Changing entries of a JSON file, as people do by hand, and reading what is then refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def edit(path: Path, **changes: Any) -> None:
    """Set entries of a JSON object in a file."""
    record = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(record), encoding="utf-8")


def one_line(error: BaseException) -> str:
    """The text of an error, which has to be one line."""
    text = str(error)
    assert "\n" not in text
    return text
