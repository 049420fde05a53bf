"""Every kind of toy by its name.

A kind is a function of the identity's three part variations: `build` changes proportions, `top` what sits on the head
or roof, `trim` the fittings. Body parts carry the pattern; accent parts are large enough to read at 64 pixels. Toys
look along +z or, for vehicles and animals seen from the side, along +x.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.raycast import Solid
from dreamcache.training.world.toys.creatures import bear, duck, fish, mushroom, robot, snail
from dreamcache.training.world.toys.vehicles import boat, car, house, plane, rocket, train

BUILDERS: dict[str, Callable[[Identity], list[Solid]]] = {
    "robot": robot, "fish": fish, "house": house, "car": car, "bear": bear, "duck": duck, "rocket": rocket,
    "boat": boat, "plane": plane, "mushroom": mushroom, "snail": snail, "train": train,
}  # fmt: skip


def build_parts(toy: Identity) -> list[Solid]:
    """All parts of a toy in its own coordinates, about −1..1 on each axis."""
    return BUILDERS[toy.kind](toy)
