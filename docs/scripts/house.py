"""The shape of the code, from its own imports.

    python docs/scripts/house.py [--root DIR] [--json FILE] [--compare docs/results/house-0.1.json]

A *room* is what lies side by side in a folder: a file or a folder. *Floors* are the longest chain of rooms in which
each imports the next. A *circle* is a group of files, or of rooms, that import each other; imports under
TYPE_CHECKING and inside functions count like any other. tests/test_architecture.py holds the bounds.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from import_graph import circles, floors

NAMESPACE = "dreamcache"
ROOTS = ("runtime", "models", "training", "export", "benchmarks")
LONG_FILE = 250
LONG_FUNCTION = 60


@dataclass(frozen=True)
class Module:
    """One file. name: dotted, without `__init__`; package: it is a folder's `__init__`."""

    name: str
    path: Path
    package: bool = False

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    def long_functions(self, limit: int = LONG_FUNCTION) -> list[str]:
        """Functions of more than `limit` lines, with their length."""
        return [
            f"{self.name}.{node.name} ({length})"
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > limit
        ]

    def definitions(self) -> list[str]:
        """Public classes and functions at the top of the file."""
        kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        named = [node.name for node in self.tree.body if isinstance(node, kinds)]
        return [name for name in named if not name.startswith("_")]

    def imports(self, known: Iterable[str]) -> frozenset[str]:
        """The modules of ours that the file imports, wherever in it."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.add(inner if inner in known else str(node.module))
        return frozenset(found & set(known) - {self.name})


def python_files(top: Path, *folders: str) -> list[Module]:
    """Every Python file below some folders, named by its path."""
    paths = [path for folder in folders for path in sorted((top / folder).rglob("*.py"))]
    return [Module(path.relative_to(top).as_posix(), path) for path in paths]


@dataclass(frozen=True)
class House:
    """All packages below one folder; folders are named like modules."""

    top: Path

    @cached_property
    def modules(self) -> dict[str, Module]:
        """By dotted name."""
        found = {}
        for root in ROOTS:
            for path in sorted((self.top / root / NAMESPACE / root).rglob("*.py")):
                parts = path.relative_to(self.top / root).with_suffix("").parts
                package = parts[-1] == "__init__"
                name = ".".join(parts[:-1] if package else parts)
                found[name] = Module(name, path, package)
        return found

    @cached_property
    def arrows(self) -> dict[str, frozenset[str]]:
        """Which file imports which."""
        return {name: module.imports(self.modules) for name, module in self.modules.items()}

    @cached_property
    def folders(self) -> dict[str, dict[str, frozenset[str]]]:
        """Which room of a folder imports which, by folder."""
        packages = [name for name, module in self.modules.items() if module.package]
        return {folder: self._room_arrows(folder) for folder in packages}

    def _room_arrows(self, folder: str) -> dict[str, frozenset[str]]:
        start = folder + "."
        room_of = {
            name: name.removeprefix(start).partition(".")[0]
            for name in self.modules
            if name.startswith(start)
        }
        found: dict[str, frozenset[str]] = dict.fromkeys(room_of.values(), frozenset())
        for name, room in room_of.items():
            found[room] |= {room_of[target] for target in self.arrows[name] & room_of.keys()} - {room}
        return found

    def homonyms(self) -> dict[str, list[str]]:
        """Public names that are defined more than once, and where."""
        homes: dict[str, list[str]] = defaultdict(list)
        for module in self.modules.values():
            for name in module.definitions():
                homes[name].append(module.name)
        return {name: places for name, places in sorted(homes.items()) if len(places) > 1}

    def describe_root(self, root: str) -> dict[str, Any]:
        """The figures of one root."""
        within = f"{NAMESPACE}.{root}"
        own = {name: m for name, m in self.modules.items() if f"{name}.".startswith(f"{within}.")}
        between = {name: arrows for name, arrows in self.folders.items() if name in own}
        return {
            "rooms": len(between[within]),
            "floors": floors(between[within]),
            "folders": len(between),
            "files": len(own) - len(between),
            "lines": sum(module.lines for module in own.values()),
            "arrows between files": sum(len(self.arrows[name] & set(own)) for name in own),
            "arrows between rooms": sum(map(len, between[within].values())),
            "largest folder": max(map(len, between.values())),
            "circles of files": circles({name: self.arrows[name] & set(own) for name in own}),
            "circles of rooms": [group for arrows in between.values() for group in circles(arrows)],
        }

    def describe(self) -> dict[str, Any]:
        """Everything that is printed, as plain data."""
        modules = self.modules.values()
        return {
            "roots": {root: self.describe_root(root) for root in ROOTS},
            "lines": sum(module.lines for module in modules),
            "lines with scripts": sum(module.lines for module in python_files(self.top, *ROOTS, "docs")),
            "files over 250 lines": [f"{m.name} ({m.lines})" for m in modules if m.lines > LONG_FILE],
            "functions over 60 lines": [text for module in modules for text in module.long_functions()],
            "names defined more than once": self.homonyms(),
        }


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each figure, before and after; lists by their length."""
    pairs = [(name, before.get(name), value) for name, value in after.items() if name != "roots"]
    for root, figures in after["roots"].items():
        pairs += [
            (f"{root}: {name}", before["roots"][root].get(name), value) for name, value in figures.items()
        ]
    counts = [
        (name, *(value if isinstance(value, int | None) else len(value) for value in both))
        for name, *both in pairs
    ]
    return [f"{name:38} {then!s:>7} {now!s:>7}" for name, then, now in counts]


def main() -> None:
    """Print the shape as JSON, or compared with an earlier one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="Repository")
    parser.add_argument("--json", type=Path, help="File to write")
    parser.add_argument("--compare", type=Path, help="File of earlier figures, to compare with")
    given = parser.parse_args()
    shape = House(given.root).describe()
    text = json.dumps(shape, indent=1)
    if given.json is not None:
        given.json.write_text(text + "\n", encoding="utf-8")
    if given.compare is None:
        print(text)
    else:
        print("\n".join(compared(json.loads(given.compare.read_text(encoding="utf-8")), shape)))


if __name__ == "__main__":
    main()
