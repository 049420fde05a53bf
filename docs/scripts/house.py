"""The shape of the code, from its own imports: `python docs/scripts/house.py [--json FILE] [--root DIR]`.

A *room* is what lies side by side in a folder: a file or a folder. *Floors* are the longest chain of rooms in which
each imports the next. A *circle* is a group of files, or of rooms, that import each other; imports under
TYPE_CHECKING and inside functions count like any other.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

NAMESPACE = "dreamcache"
ROOTS = ("runtime", "models", "training", "export", "benchmarks")
LONG_FILE = 250
LONG_FUNCTION = 60

Arrows = Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Module:
    """One file. name: dotted, without `__init__`; package: it is a folder's `__init__`."""

    name: str
    path: Path
    package: bool

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
        return [
            node.name
            for node in self.tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("_")
        ]


def read_modules(top: Path, root: str) -> dict[str, Module]:
    """Every module of one root by dotted name."""
    found = {}
    for path in sorted((top / root / NAMESPACE / root).rglob("*.py")):
        parts = path.relative_to(top / root).with_suffix("").parts
        package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if package else parts)
        found[name] = Module(name, path, package)
    return found


def imports_of(module: Module, known: Mapping[str, Module]) -> frozenset[str]:
    """The modules of ours that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else node.module)
    return frozenset(found & set(known) - {module.name})


def room_of(name: str, folder: str) -> str | None:
    """The room of `folder` that a module lies in; None for one outside, or for the folder's own `__init__`."""
    if not name.startswith(folder + "."):
        return None
    return name[len(folder) + 1 :].partition(".")[0]


def room_arrows(folder: str, arrows: Arrows) -> dict[str, frozenset[str]]:
    """Which room of a folder imports which."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, targets in arrows.items():
        room = room_of(name, folder)
        if room is None:
            continue
        found[room] |= {other for target in targets if (other := room_of(target, folder)) not in (None, room)}
    return {room: frozenset(others) for room, others in found.items()}


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups that import each other, each sorted (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in arrows.get(name, ()):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in sorted(arrows):
        if name not in index:
            visit(name)
    return found


def floors(arrows: Arrows) -> int:
    """Rooms on the longest chain of imports; a circle counts as one."""
    group_of = {name: name for name in arrows}
    for group in circles(arrows):
        group_of |= dict.fromkeys(group, group[0])
    merged: dict[str, set[str]] = defaultdict(set)
    for name, targets in arrows.items():
        merged[group_of[name]] |= {group_of[target] for target in targets} - {group_of[name]}
    heights: dict[str, int] = {}

    def height(name: str) -> int:
        if name not in heights:
            heights[name] = 1 + max((height(target) for target in merged.get(name, ())), default=0)
        return heights[name]

    return max(map(height, merged), default=0)


def folders_of(modules: Mapping[str, Module]) -> Iterator[tuple[str, list[str]]]:
    """Each folder with its rooms: files without `__init__`, and folders."""
    for name, module in modules.items():
        if module.package:
            yield name, sorted({room for other in modules if (room := room_of(other, name)) is not None})


def describe(top: Path) -> dict[str, object]:
    """Everything that is printed, as plain data."""
    everything: dict[str, Module] = {}
    for root in ROOTS:
        everything |= read_modules(top, root)
    arrows = {name: imports_of(module, everything) for name, module in everything.items()}
    roots: dict[str, object] = {}
    homes: dict[str, list[str]] = defaultdict(list)
    for module in everything.values():
        for definition in module.definitions():
            homes[definition].append(module.name)
    for root in ROOTS:
        own = {name: module for name, module in everything.items() if name.split(".")[1] == root}
        folder = f"{NAMESPACE}.{root}"
        between_rooms = {name: room_arrows(name, arrows) for name, _ in folders_of(own)}
        roots[root] = {
            "rooms": len(dict(folders_of(own))[folder]),
            "floors": floors(between_rooms[folder]),
            "folders": sum(module.package for module in own.values()),
            "files": sum(not module.package for module in own.values()),
            "lines": sum(module.lines for module in own.values()),
            "arrows between files": sum(len(arrows[name] & set(own)) for name in own),
            "arrows between rooms": sum(map(len, between_rooms[folder].values())),
            "largest folder": max(len(rooms) for _, rooms in folders_of(own)),
            "circles of files": circles({name: arrows[name] & set(own) for name in own}),
            "circles of rooms": [group for each in between_rooms.values() for group in circles(each)],
        }
    return {
        "roots": roots,
        "lines": sum(module.lines for module in everything.values()),
        "files over 250 lines": [f"{m.name} ({m.lines})" for m in everything.values() if m.lines > LONG_FILE],
        "functions over 60 lines": [text for m in everything.values() for text in m.long_functions()],
        "names defined more than once": {name: at for name, at in sorted(homes.items()) if len(at) > 1},
    }


def main() -> None:
    """Print the shape, or write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="Repository")
    parser.add_argument("--json", type=Path, help="Write the figures to this file too")
    given = parser.parse_args()
    shape = describe(given.root)
    if given.json is not None:
        given.json.write_text(json.dumps(shape, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(shape, indent=1))


if __name__ == "__main__":
    main()
