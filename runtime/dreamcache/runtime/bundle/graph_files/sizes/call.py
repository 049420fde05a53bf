"""One node with what is known of its inputs, and the shapes that both kinds of rules are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.graph_files.nodes import Node

Shape = tuple[int, ...]
Known = NDArray[Any] | None
"""The values of a tensor; None where they are not known."""


@dataclass(frozen=True)
class Call:
    """A node, and by input the shape and what is known of the values; an absent input has no axes."""

    node: Node
    shapes: Sequence[Shape]
    known: Sequence[Known]

    @property
    def first(self) -> Shape:
        """Shape of the first input."""
        return self.shapes[0]

    def numbers(self, place: int, attribute: str = "") -> list[int] | None:
        """Whole numbers of an input, or of the attribute that older versions have in its place; None for neither.

        Raises: ValueError where they are not known.
        """
        if place >= len(self.node.inputs) or not self.node.inputs[place]:
            return self.node.wholes(attribute) if attribute else None
        known = self.known[place]
        if known is None or known.ndim > 1 or not np.issubdtype(known.dtype, np.integer):
            raise ValueError(f"{self.node.operator} asks for an unknown number of elements")
        return [int(value) for value in known.reshape(-1)]

    def needed(self, numbers: list[int] | None, least: int = 0) -> list[int]:
        """Raises: ValueError for none, or for one that is less."""
        if numbers is None:
            raise ValueError(f"{self.node.operator} asks for an unknown number of elements")
        if min(numbers, default=least) < least:
            raise ValueError(
                f"{self.node.operator}: numbers of at least {least} are expected, received {min(numbers)}"
            )
        return numbers


Rule = Callable[[Call], Shape]
"""To the shape of a node's first output. Raises: ValueError."""


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape of several put together. Raises: ValueError where they do not fit."""
    made: list[int] = []
    for place in range(1, max(map(len, shapes), default=0) + 1):
        sides = {shape[-place] for shape in shapes if len(shape) >= place} - {1}
        if len(sides) > 1:
            raise ValueError(f"shapes {[list(shape) for shape in shapes]} do not fit to each other")
        made.append(sides.pop() if sides else 1)
    return tuple(reversed(made))


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front. Raises: ValueError for one that is not there."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of {rank} is not there")
    return axis % rank


def slice_of(side: int, start: int, end: int, step: int) -> range:
    """What `Slice` takes of an axis; unlike Python's, a backward one that starts before the first element takes it."""
    start, end = (place + side if place < 0 else place for place in (start, end))
    if step > 0:
        return range(min(max(start, 0), side), min(max(end, 0), side), step)
    return range(min(max(start, 0), side - 1), min(max(end, -1), side - 1), step)
