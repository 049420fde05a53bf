"""How much private memory a stage takes, as a linear function of a few quantities of its bundle.

The factors were fitted to measured peaks (docs/guides/memory.md says how). There is one set for each profile and
precision, on the CPU: 8 bits keep other maps in memory than floats do, and weights stored in 16 bits are widened into
private memory.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np

from dreamcache.runtime.bundle.contract import Precision
from dreamcache.runtime.sessions.profiles import Profile


@dataclass(frozen=True)
class Quantities:
    """What a stage's peak depends on, in bytes; `process` is 1.

    mapped, inline: weights in weights files and inside the graph. unet: features of the widest site times the
    batch. attention: attention's scores, where they are written out. encoder, decoder: one map of the VAE at the
    picture's size. strips: maps and windows that a decoder in strips holds at once. held: tensors of ours, counted as
    they are.
    """

    process: float = 1.0
    mapped: float = 0.0
    inline: float = 0.0
    unet: float = 0.0
    attention: float = 0.0
    encoder: float = 0.0
    decoder: float = 0.0
    strips: float = 0.0
    held: float = 0.0


@dataclass(frozen=True)
class Factors:
    """Private bytes for each byte of a quantity; `process` in bytes."""

    process: float
    mapped: float
    inline: float
    unet: float
    attention: float
    encoder: float
    decoder: float
    strips: float
    held: float = 1.0

    def peak(self, quantities: Quantities) -> float:
        """Private bytes."""
        return float(np.dot(astuple(self), astuple(quantities)))


def _factors(
    process: float,
    mapped: float,
    inline: float,
    unet: float,
    encoder: float,
    decoder: float,
    strips: float,
    attention: float = 2.0,
) -> Factors:
    return Factors(process * 1e6, mapped, inline, unet, attention, encoder, decoder, strips)


FACTORS: dict[Profile, dict[Precision, Factors]] = {
    "speed": {
        "fp32": _factors(46, 0.85, 1.26, 181, 4.7, 12, 0.76),
        "fp16": _factors(41, 3.2, 1.68, 181, 10, 27, 1.2),
        "int8": _factors(41, 0.86, 2.14, 89, 7.4, 10.3, 1.11),
    },
    "memory": {
        "fp32": _factors(48, 0.012, 1.34, 20, 3.1, 6, 0.93),
        "fp16": _factors(39, 5.7, 1.06, 22, 1, 14.6, 1.0),
        "int8": _factors(45, 0.01, 1.62, 26, 5.3, 8.5, 1.02),
    },
}
# Not fitted: forms for GPUs, which a processor runs as what they resemble.
for _of_profile in FACTORS.values():
    _of_profile["web"], _of_profile["web8"] = _of_profile["fp16"], _of_profile["int8"]
