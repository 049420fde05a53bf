"""Which operations leave the range of 16 bits, as activations along a trajectory have it.

A value over 65504 is infinite in 16 bits, and one infinity makes a black picture. Every operation that writes or
reads such a value stays in 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

from dreamcache.export.coreml.program import Function

MAX_FP16 = 65504.0
LIMIT = MAX_FP16 / 2
"""Another prompt may go twice as far."""

SENTINEL = 1e30
"""Masks add the most negative float, which is minus infinity in 16 bits, as it is meant; no activation comes near."""

_SUFFIX = "_cast_fp16"
"""What coremltools appends to the name of an operation that it moves to 16 bits."""


def overflowing(function: Function, largest: Mapping[str, float], limit: float = LIMIT) -> set[str]:
    """Names, as `convert_graph` knows them, of the operations that write or read a value beyond `limit`.

    Args:
        function: the saved one.
        largest: magnitude of each computed tensor, by name; `Interpreter.largest`.
        limit: in either direction.
    """
    wide = {name for name, value in largest.items() if not value <= limit and not value >= SENTINEL}
    found = set()
    for one in function.operations:
        read = {value for bound in one.inputs.values() for value in bound if isinstance(value, str)}
        if wide & (read | {tensor.name for tensor in one.outputs}):
            found |= {tensor.name.removesuffix(_SUFFIX) for tensor in one.outputs}
    return found
