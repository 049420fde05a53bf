"""Who a toy is: its kind and the appearance that a reference picture carries and a prompt seldom names.

There are 12 kinds × 10 body colours × 9 accent colours × 6 patterns × 27 part variations: 174,960 identities.
A hash of the identity, not of the order in which it was drawn, decides whether it is seen in training.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KINDS = (
    "robot", "fish", "house", "car", "bear", "duck", "rocket", "boat", "plane", "mushroom", "snail", "train",
)  # fmt: skip

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.50, 0.05),
    "yellow": (0.98, 0.88, 0.15),
    "green": (0.15, 0.62, 0.18),
    "cyan": (0.10, 0.78, 0.80),
    "blue": (0.10, 0.25, 0.85),
    "purple": (0.50, 0.15, 0.72),
    "pink": (0.98, 0.55, 0.78),
    "brown": (0.42, 0.24, 0.10),
    "white": (0.95, 0.95, 0.94),
}

PATTERNS = ("plain", "striped", "banded", "spotted", "checked", "two-tone")

HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Identity:
    """One toy. `build`, `top` and `trim` in {0, 1, 2} choose its proportions, head parts and fittings."""

    kind: str
    body: str
    accent: str
    pattern: str
    build: int
    top: int
    trim: int

    @property
    def key(self) -> str:
        """The identity as one line of text; equal exactly for equal identities."""
        return f"{self.kind}/{self.body}/{self.accent}/{self.pattern}/{self.build}{self.top}{self.trim}"

    @property
    def body_rgb(self) -> NDArray[np.float32]:
        """Body colour, [3] in 0..1."""
        return np.asarray(COLOURS[self.body], np.float32)

    @property
    def accent_rgb(self) -> NDArray[np.float32]:
        """Accent colour, [3] in 0..1."""
        return np.asarray(COLOURS[self.accent], np.float32)


def count_identities() -> int:
    """How many different toys the world knows."""
    return len(KINDS) * len(COLOURS) * (len(COLOURS) - 1) * len(PATTERNS) * 3**3


def is_held_out(identity: Identity) -> bool:
    """Whether training never sees this toy: a tenth of all identities, chosen by hash."""
    digest = hashlib.sha256(identity.key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def draw_identity(rng: np.random.Generator, *, held_out: bool) -> Identity:
    """Draw a toy uniformly from the seen or from the held-out identities."""
    names = tuple(COLOURS)
    while True:
        body, accent = rng.choice(len(names), 2, replace=False)
        build, top, trim = (int(v) for v in rng.integers(0, 3, 3))
        identity = Identity(
            kind=KINDS[rng.integers(len(KINDS))],
            body=names[body],
            accent=names[accent],
            pattern=PATTERNS[rng.integers(len(PATTERNS))],
            build=build,
            top=top,
            trim=trim,
        )
        if is_held_out(identity) == held_out:
            return identity
