"""Which activations leave the range of 16 bits along a trajectory, and the operations that then stay in 32.

A value over 65504 is infinite in 16 bits, and one infinity makes a black picture. Every operation that writes or
reads such a value is computed in 32 bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from typing import Any

MAX_FP16 = 65504.0
LIMIT = MAX_FP16 / 2
"""Another prompt may go twice as far."""

SENTINEL = 1e30
"""Masks add the most negative float, which is minus infinity in 16 bits, as it is meant; no activation comes near."""

_SUFFIX = "_cast_fp16"
"""What coremltools appends to the name of what it moves to 16 bits."""


def overflowing(largest: Mapping[str, float], limit: float = LIMIT) -> set[str]:
    """Names, before their move to 16 bits, of the activations beyond `limit`.

    Args:
        largest: magnitude of each computed tensor, by name; `Interpreter.largest`.
        limit: in either direction.
    """
    return {
        name.removesuffix(_SUFFIX)
        for name, value in largest.items()
        if not value <= limit and not value >= SENTINEL
    }


def touching(names: Set[str]) -> Callable[[Any], bool]:
    """Predicate for `convert_graph`: whether an operation of coremltools' program writes or reads one of these."""

    def touches(one: Any) -> bool:
        read = [value for bound in one.inputs.values() for value in _each(bound)]
        return any(_sanitised(value.name) in names for value in (*one.outputs, *read) if value is not None)

    return touches if names else lambda _: False


def _each(bound: Any) -> list[Any]:
    return list(bound) if isinstance(bound, list | tuple) else [bound]


def _sanitised(name: str) -> str:
    """As coremltools saves a name: letters, digits and underscores, and no digit first."""
    plain = re.sub(r"\W", "_", name)
    return f"var_{plain}" if plain[:1].isdigit() else plain
