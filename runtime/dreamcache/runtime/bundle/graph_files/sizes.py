"""Sizes that a graph states for tensors that it makes itself: a few bytes can ask for terabytes.

A shape stands in the file, or is worked out of numbers in the file by the few operators that exporters use for it.
Then no dimension can be larger than the product of all numbers on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Protocol

from dreamcache.runtime.bundle.graph_files.tensors import StoredTensor
from dreamcache.runtime.bundle.tensors import MAX_ELEMENTS

SHAPE_INPUTS = {"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Pad": (1,), "Resize": (2, 3)}
"""By operator: the inputs that say how large the output is."""

# What exporters work shapes out with: those that pass on numbers of their first input, and those that combine numbers.
_PASSING = frozenset({"Cast", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_COMBINING = frozenset({"Concat", "Equal", "Mul", "Where"})
_MOST_STEPS = 256
# What a dimension of an input can be: contracts hold them to MAX_ELEMENTS, and exporters ask for one or two.
_LARGEST_DIMENSION = 4096
_LARGEST_SCALE = 16.0
# A Resize to the size of another tensor costs what a sum of the two may cost, which is not looked for either; numbers
# of the file beside those of tensors can be such a plane.
_LARGEST_PLANE = 1 << 20


class Made(Protocol):
    """A node, as far as it is looked at here."""

    operator: str
    inputs: list[str]
    tensors: list[StoredTensor]


def check_sizes(
    operator: str, inputs: Sequence[str], stored: Mapping[str, StoredTensor], made: Mapping[str, Made]
) -> None:
    """The numbers that say how large an operator's output is.

    Raises: ValueError where they ask for more than `MAX_ELEMENTS`, or cannot be known.
    """
    for position in SHAPE_INPUTS[operator]:
        name = inputs[position] if position < len(inputs) else ""
        if not name:
            continue
        tensor = stored.get(name)
        if tensor is not None and operator == "Resize" and position == 2:
            if max((abs(scale) for scale in tensor.floats()), default=0.0) > _LARGEST_SCALE:
                raise ValueError(f"Resize: scales up to {_LARGEST_SCALE} are expected, received larger ones")
            continue
        if operator == "Resize" and _bound(name, stored, made, [0], dimension=1) <= _LARGEST_PLANE:
            continue
        if _bound(name, stored, made, [0]) > MAX_ELEMENTS:
            raise ValueError(
                f"{operator} asks for more than {MAX_ELEMENTS} elements, or for an unknown number"
            )


def _bound(
    name: str,
    stored: Mapping[str, StoredTensor],
    made: Mapping[str, Made],
    steps: list[int],
    dimension: int = _LARGEST_DIMENSION,
) -> int:
    """No number of the tensor, and no product of its numbers, can be larger than this.

    dimension: what one of a tensor's counts for; with 1 they may be put side by side and not multiplied.
    """
    steps[0] += 1
    if steps[0] > _MOST_STEPS:
        return MAX_ELEMENTS + 1
    tensor = stored.get(name)
    if tensor is not None:
        numbers = tensor.integers()
        return MAX_ELEMENTS + 1 if numbers is None else prod(max(1, abs(number)) for number in numbers)
    node = made.get(name)
    if node is None:
        return MAX_ELEMENTS + 1
    if node.operator == "Shape":
        return dimension
    if node.operator in (_COMBINING if dimension > 1 else ("Concat",)):
        bounds = (_bound(one, stored, made, steps, dimension) for one in node.inputs if one)
        return min(MAX_ELEMENTS + 1, prod(bounds))
    if node.operator in _PASSING or (node.operator == "Gather" and _takes_one(node, stored)):
        return _bound(node.inputs[0], stored, made, steps, dimension) if node.inputs else MAX_ELEMENTS + 1
    if node.operator == "ConstantOfShape":
        values = [value for tensor in node.tensors for value in tensor.integers() or [MAX_ELEMENTS + 1]]
        return 1 if all(abs(value) <= 1 for value in values) else MAX_ELEMENTS + 1
    return MAX_ELEMENTS + 1


def _takes_one(gather: Made, stored: Mapping[str, StoredTensor]) -> bool:
    """Whether it takes one number: several could be one number again and again."""
    chosen = stored.get(gather.inputs[1]) if len(gather.inputs) > 1 else None
    return chosen is not None and prod(chosen.shape) == 1
