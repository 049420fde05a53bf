"""Circles and floors of a graph of imports (house.py)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cache

# Which file, or room, imports which.
Arrows = Mapping[str, frozenset[str]]


def reachable(arrows: Arrows, start: str) -> set[str]:
    """Everything at the end of a chain of arrows."""
    found: set[str] = set()
    todo = [start]
    while todo:
        fresh = arrows.get(todo.pop(), frozenset()) - found
        found |= fresh
        todo += fresh
    return found


def circles(arrows: Arrows) -> list[list[str]]:
    """Groups that import each other, each sorted."""
    reach = {name: reachable(arrows, name) for name in arrows}
    groups = {
        tuple(sorted(other for other in reach[name] if name in reach.get(other, ())))
        for name in arrows
        if name in reach[name]
    }
    return [list(group) for group in sorted(groups)]


def floors(arrows: Arrows) -> int:
    """Rooms on the longest chain of imports; a circle counts as one."""
    group_of = {name: group[0] for group in circles(arrows) for name in group}
    below: dict[str, set[str]] = defaultdict(set)
    for name, targets in arrows.items():
        below[group_of.get(name, name)] |= {group_of.get(target, target) for target in targets}

    @cache
    def height(name: str) -> int:
        return 1 + max((height(other) for other in below.get(name, set()) - {name}), default=0)

    return max(map(height, below), default=0)
