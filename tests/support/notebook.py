"""A notebook's code run in this process, as Jupyter would run it and without Jupyter."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells that hold code."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in stored if cell["cell_type"] == "code"]


def run(path: Path, **parameters: Any) -> tuple[dict[str, Any], list[Any]]:
    """What a notebook's names hold at its end, and what its cells show: the value of the last line of each.

    parameters: take the place of those in the cell tagged "parameters", which must know them.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in cells(path):
        body = ast.parse(cell["source"], f"{path.name}: {cell['id']}").body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"{path.name}: {cell['id']}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"{path.name}: {cell['id']}", "eval"), names)
            shown.append(value)
        if "parameters" in cell["metadata"].get("tags", []):
            assert set(parameters) <= set(names)
            names |= parameters
    return names, shown
