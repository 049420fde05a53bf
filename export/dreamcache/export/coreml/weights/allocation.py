"""Bits for many weights at once: each added byte goes where it saves most error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dreamcache.export.errors import ExportError
from dreamcache.export.options import WeightFormat


@dataclass(frozen=True)
class FormatCost:
    """What a format of one weight costs. error: squared, of the prediction."""

    format: WeightFormat
    bytes: float
    error: float


def allocate(
    costs: Iterable[Mapping[WeightFormat, FormatCost]], enough: Callable[[float, float], bool]
) -> list[FormatCost]:
    """Start everything at the fewest bytes and upgrade where an added byte saves most error, until it is `enough`.

    Args:
        costs: of each weight, every format.
        enough: of the sum of errors and the sum of bytes.
    """
    options = [sorted(steps.values(), key=lambda step: step.bytes) for steps in costs]
    chosen = [0] * len(options)
    error = sum(steps[0].error for steps in options)
    size = sum(steps[0].bytes for steps in options)
    while not enough(error, size):
        best, gain = None, 0.0
        for index, steps in enumerate(options):
            now = steps[chosen[index]]
            for further in range(chosen[index] + 1, len(steps)):
                rate = (now.error - steps[further].error) / (steps[further].bytes - now.bytes)
                if rate > gain:
                    best, gain = (index, further), rate
        if best is None:
            break
        index, further = best
        error += options[index][further].error - options[index][chosen[index]].error
        size += options[index][further].bytes - options[index][chosen[index]].bytes
        chosen[index] = further
    return [steps[index] for steps, index in zip(options, chosen, strict=True)]


def allocate_within(options: list[dict[WeightFormat, FormatCost]], limit: float) -> list[FormatCost]:
    """The least error in at most `limit` bytes."""
    smallest = sum(min(step.bytes for step in steps.values()) for steps in options)
    if smallest > limit:
        raise ExportError(
            f"--coreml size_mb: the weights take {smallest / 1e6:.1f} MB in 4 bits, "
            f"at most {max(limit, 0) / 1e6:.1f} are left for them"
        )
    # Upgrades differ in size: the greatest error bound whose choice fits.
    low, high = -20.0, 140.0
    total = sum(max(step.error for step in steps.values()) for steps in options)
    best = allocate(options, lambda *_: True)
    for _ in range(40):
        middle = (low + high) / 2
        chosen = allocate(options, lambda error, _: error <= total / 10 ** (middle / 10))  # noqa: B023 (called at once)
        if sum(step.bytes for step in chosen) <= limit:
            best, low = chosen, middle
        else:
            high = middle
    return best
