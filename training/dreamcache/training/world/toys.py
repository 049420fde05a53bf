"""Of which parts each kind of toy is built.

Every kind is a function of the identity's three part variations: `build` changes proportions, `top` what sits
on the head or roof, `trim` the fittings. Body parts carry the pattern; accent parts are large enough to read
at 64 pixels. Toys look along +z or, for vehicles and animals seen from the side, along +x.
"""

from __future__ import annotations

from collections.abc import Callable

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.raycast import Material, Solid

DARK = (0.10, 0.10, 0.12)
EYE = (0.97, 0.97, 0.97)
GLASS = (0.65, 0.85, 0.95)
METAL = (0.62, 0.64, 0.68)

Triple = tuple[float, float, float]


def ball(centre: Triple, size: Triple, material: Material = "body", tilt: float = 0.0) -> Solid:
    """An ellipsoid with half axes `size`."""
    return Solid("ball", centre, size, material, tilt)


def box(centre: Triple, size: Triple, material: Material = "body", tilt: float = 0.0) -> Solid:
    """A box with half edges `size`."""
    return Solid("box", centre, size, material, tilt)


def tube(
    centre: Triple, size: Triple, material: Material = "body", tilt: float = 0.0, taper: float = 1.0
) -> Solid:
    """An upright cylinder or cone; `tilt` leans it over."""
    return Solid("tube", centre, size, material, tilt, taper)


def eyes(x: float, y: float, z: float, size: float) -> list[Solid]:
    """A pair of eyes with pupils on a face that looks along +z."""
    white = [ball((s * x, y, z), (size, size, size * 0.6), EYE) for s in (-1, 1)]
    pupil = [ball((s * x, y, z + size * 0.5), (size * 0.55, size * 0.55, size * 0.3), DARK) for s in (-1, 1)]
    return white + pupil


def robot(toy: Identity) -> list[Solid]:
    """Box body, box or round head, accent limbs."""
    w = (0.42, 0.5, 0.58)[toy.build]
    parts = [
        box((0, -0.12, 0), (w, 0.42, 0.34)),
        *(box((s * 0.24, -0.75, 0), (0.16, 0.25, 0.2), "accent") for s in (-1, 1)),
        *(box((s * (w + 0.14), -0.08, 0), (0.12, 0.36, 0.16), "accent") for s in (-1, 1)),
        *eyes(0.16, 0.58, 0.32, 0.11),
    ]
    head = box((0, 0.55, 0), (0.36, 0.26, 0.3)) if toy.trim < 2 else ball((0, 0.55, 0), (0.4, 0.3, 0.34))
    tops = (
        [tube((0, 0.95, 0), (0.05, 0.15, 0.05), METAL), ball((0, 1.1, 0), (0.13, 0.13, 0.13), "accent")],
        [tube((0, 0.95, 0), (0.3, 0.16, 0.3), "accent", taper=0.1)],
        [box((s * 0.3, 0.92, 0), (0.09, 0.2, 0.09), "accent") for s in (-1, 1)],
    )
    panel = [box((0, 0.0, 0.34), (0.2, 0.14, 0.03), METAL)] if toy.trim == 1 else []
    return [*parts, head, *tops[toy.top], *panel]


def fish(toy: Identity) -> list[Solid]:
    """Side view: oval body, accent tail and fins."""
    h = (0.4, 0.5, 0.6)[toy.build]
    tail = (0.5, 0.62, 0.4)[toy.trim]
    fins = (
        [tube((-0.05, h + 0.14, 0), (0.35, 0.24, 0.1), "accent", taper=0.15)],
        [box((-0.1, h + 0.1, 0), (0.4, 0.16, 0.07), "accent")],
        [tube((x, h + 0.12, 0), (0.16, 0.22, 0.08), "accent", taper=0.1) for x in (-0.3, 0.15)],
    )
    return [
        ball((0.12, 0, 0), (0.78, h, 0.36)),
        tube((-0.78, 0, 0), (tail, 0.3, 0.1), "accent", tilt=-1.5708, taper=0.15),
        ball((0.1, -0.12, 0.36), (0.24, 0.13, 0.1), "accent"),
        ball((0.58, 0.13, 0.26), (0.15, 0.15, 0.1), EYE),
        ball((0.62, 0.13, 0.34), (0.08, 0.08, 0.06), DARK),
        *fins[toy.top],
    ]


def house(toy: Identity) -> list[Solid]:
    """Box walls, accent roof and door."""
    w, h = ((0.62, 0.42), (0.7, 0.36), (0.5, 0.5))[toy.build]
    top = h - 0.4
    roofs = (
        [tube((0, top + 0.36, 0), (w * 1.45, 0.38, w * 1.45), "accent", taper=0.02)],
        [box((s * w * 0.52, top + 0.28, 0), (w * 0.8, 0.1, 0.62), "accent", tilt=-s * 0.7) for s in (-1, 1)],
        [box((0, top + 0.14, 0), (w * 1.15, 0.16, 0.66), "accent")],
    )
    windows = (
        [box((s * w * 0.55, -0.22, 0.5), (0.13, 0.13, 0.04), GLASS) for s in (-1, 1)],
        [ball((s * w * 0.55, -0.22, 0.5), (0.15, 0.15, 0.05), GLASS) for s in (-1, 1)],
        [box((s * w * 0.55, -0.22, 0.5), (0.1, 0.2, 0.04), GLASS) for s in (-1, 1)],
    )
    chimney = box((w * 0.5, top + 0.5, -0.2), (0.11, 0.3, 0.11), (0.5, 0.3, 0.26))
    return [
        box((0, -0.4, 0), (w, h, 0.5)),
        box((0, -0.62, 0.5), (0.15, 0.26, 0.05), "accent"),
        chimney,
        *roofs[toy.top],
        *windows[toy.trim],
    ]


def car(toy: Identity) -> list[Solid]:
    """Side view: long body, accent cabin and hubs."""
    length = (0.8, 0.92, 0.86)[toy.build]
    cabins = (
        [box((-0.08, 0.3, 0), (0.46, 0.26, 0.34), "accent")],
        [ball((-0.05, 0.14, 0), (0.58, 0.48, 0.36), "accent")],
        [box((-0.3, 0.36, 0), (0.3, 0.32, 0.34), "accent")],
    )
    glass_x = (-0.08, -0.03, -0.3)[toy.top]
    r = (0.25, 0.3, 0.22)[toy.trim]
    wheels = [
        part
        for x in (-0.5, 0.5)
        for part in (
            ball((x, -0.48, 0.4), (r, r, 0.12), DARK),
            ball((x, -0.48, 0.48), (r * 0.55, r * 0.55, 0.08), "accent"),
        )
    ]
    return [
        box((0, -0.16, 0), (length, 0.27, 0.4)),
        *cabins[toy.top],
        box((glass_x, 0.32, 0.34), (0.2, 0.14, 0.04), GLASS),
        ball((length, -0.12, 0.2), (0.08, 0.1, 0.1), (1.0, 0.95, 0.6)),
        *wheels,
    ]


def bear(toy: Identity) -> list[Solid]:
    """Round sitting bear: accent belly, ears and feet."""
    w = (0.46, 0.54, 0.6)[toy.build]
    ear_x, ear = ((0.3, 0.18), (0.34, 0.22), (0.24, 0.16))[toy.top]
    extra: tuple[list[Solid], ...] = (
        [],
        [ball((s * 0.17, 0.13, 0.34), (0.19, 0.12, 0.1), "accent", tilt=s * 0.3) for s in (-1, 1)],
        [tube((0, 0.86, 0.05), (0.24, 0.22, 0.24), "accent", taper=0.05)],
    )
    return [
        ball((0, -0.4, 0), (w, 0.5, 0.42)),
        ball((0, -0.42, 0.26), (w * 0.55, 0.3, 0.22), "accent"),
        ball((0, 0.42, 0.02), (0.46, 0.4, 0.38)),
        *(ball((s * ear_x, 0.78, 0), (ear, ear, 0.14), "accent") for s in (-1, 1)),
        *(ball((s * (w + 0.04), -0.25, 0.12), (0.15, 0.3, 0.17), tilt=s * 0.5) for s in (-1, 1)),
        *(ball((s * 0.32, -0.82, 0.22), (0.22, 0.18, 0.26), "accent") for s in (-1, 1)),
        *eyes(0.17, 0.5, 0.34, 0.09),
        ball((0, 0.32, 0.4), (0.09, 0.07, 0.07), DARK),
        *extra[toy.trim],
    ]


def duck(toy: Identity) -> list[Solid]:
    """Side view: round body and head, accent beak and wing."""
    h = (0.42, 0.5, 0.46)[toy.build]
    tops: tuple[list[Solid], ...] = (
        [],
        [tube((0.38, 0.92, 0), (0.2, 0.2, 0.2), "accent", taper=0.1)],
        [
            ball((0.38, 0.86, 0), (0.3, 0.1, 0.3), "accent"),
            ball((0.38, 0.95, 0), (0.17, 0.14, 0.17), "accent"),
        ],
    )
    wing = ((0.36, 0.22), (0.28, 0.28), (0.42, 0.16))[toy.trim]
    return [
        ball((-0.1, -0.38, 0), (0.75, h, 0.44)),
        ball((-0.74, -0.12, 0), (0.22, 0.16, 0.16), tilt=-0.6),
        ball((0.38, 0.42, 0), (0.38, 0.38, 0.34)),
        tube((0.82, 0.36, 0), (0.15, 0.22, 0.2), "accent", tilt=-1.5708, taper=0.4),
        ball((-0.16, -0.34, 0.4), (*wing, 0.12), "accent", tilt=0.2),
        ball((0.5, 0.52, 0.28), (0.11, 0.11, 0.07), EYE),
        ball((0.54, 0.52, 0.33), (0.06, 0.06, 0.04), DARK),
        *tops[toy.top],
    ]


def rocket(toy: Identity) -> list[Solid]:
    """Upright tube, accent nose and fins."""
    r = (0.3, 0.36, 0.42)[toy.build]
    noses = (
        [tube((0, 0.72, 0), (r, 0.32, r), "accent", taper=0.05)],
        [ball((0, 0.44, 0), (r, 0.5, r), "accent")],
        [
            tube((0, 0.6, 0), (r, 0.2, r), "accent", taper=0.5),
            ball((0, 0.85, 0), (0.15, 0.15, 0.15), "accent"),
        ],
    )
    fin = ((0.16, 0.3), (0.24, 0.24), (0.14, 0.42))[toy.trim]
    return [
        tube((0, -0.1, 0), (r, 0.52, r)),
        *(box((s * (r + 0.14), -0.6, 0), (*fin, 0.08), "accent", tilt=s * 0.45) for s in (-1, 1)),
        box((0, -0.62, r), (0.07, 0.26, 0.14), "accent"),
        ball((0, 0.14, r), (0.17, 0.17, 0.07), METAL),
        ball((0, 0.14, r + 0.04), (0.12, 0.12, 0.06), GLASS),
        tube((0, -0.76, 0), (r * 0.8, 0.14, r * 0.8), METAL, taper=0.7),
        *noses[toy.top],
    ]


def boat(toy: Identity) -> list[Solid]:
    """Side view: patterned hull, accent sail or cabin."""
    length = (0.62, 0.72, 0.8)[toy.build]
    masts = (
        [tube((0.18, 0.3, 0), (0.55, 0.62, 0.06), "accent", taper=0.02)],
        [
            box((-0.1, 0.02, 0), (0.4, 0.26, 0.28), "accent"),
            tube((-0.1, 0.5, 0), (0.13, 0.26, 0.13), "accent"),
        ],
        [box((0.05, 0.36, 0), (0.46, 0.36, 0.05), "accent")],
    )
    mast = [tube((-0.12, 0.2, 0), (0.05, 0.75, 0.05), (0.45, 0.3, 0.16))] if toy.top != 1 else []
    holes = [
        ball((x, -0.46, 0.33), (0.09, 0.09, 0.05), GLASS)
        for x in ((-0.3, 0.0, 0.3), (-0.2, 0.2), ())[toy.trim]
    ]
    return [
        box((0, -0.5, 0), (length, 0.24, 0.34)),
        tube((length, -0.5, 0), (0.24, 0.24, 0.3), tilt=-1.5708, taper=0.1),
        ball((-length, -0.5, 0), (0.2, 0.24, 0.32)),
        box((0, -0.25, 0), (length + 0.1, 0.06, 0.36), "accent"),
        *mast,
        *masts[toy.top],
        *holes,
    ]


def plane(toy: Identity) -> list[Solid]:
    """Side view from above: long body, accent wings and tail."""
    h = (0.24, 0.3, 0.36)[toy.build]
    tails = (
        [box((-0.76, 0.36, 0), (0.18, 0.3, 0.06), "accent", tilt=0.3)],
        [tube((-0.72, 0.38, 0), (0.22, 0.34, 0.06), "accent", taper=0.3)],
        [ball((-0.74, 0.34, 0), (0.2, 0.34, 0.08), "accent")],
    )
    noses: tuple[list[Solid], ...] = (
        [box((0.98, 0, 0), (0.04, 0.42, 0.06), "accent"), ball((0.98, 0, 0), (0.1, 0.1, 0.1), METAL)],
        [ball((0.82, 0, 0), (0.22, 0.22, 0.22), "accent")],
        [],
    )
    return [
        ball((0, 0, 0), (0.95, h, 0.3)),
        box((0.05, -0.1, 0.45), (0.26, 0.07, 0.6), "accent"),
        box((0.05, -0.06, -0.45), (0.26, 0.07, 0.6), "accent"),
        ball((0.38, h * 0.8, 0), (0.26, 0.18, 0.2), GLASS),
        ball((0.05, -0.26, 0.8), (0.24, 0.12, 0.12), "accent"),
        *tails[toy.top],
        *noses[toy.trim],
    ]


def mushroom(toy: Identity) -> list[Solid]:
    """Patterned cap on an accent stem with a face."""
    w = (0.72, 0.84, 0.92)[toy.build]
    caps = (
        [ball((0, 0.28, 0), (w, 0.52, w * 0.8))],
        [tube((0, 0.35, 0), (w, 0.45, w * 0.8), taper=0.12)],
        [tube((0, 0.2, 0), (w, 0.3, w * 0.8), taper=0.6), ball((0, 0.5, 0), (w * 0.6, 0.34, w * 0.5))],
    )
    feet: tuple[list[Solid], ...] = (
        [],
        [ball((s * 0.26, -0.88, 0.16), (0.22, 0.13, 0.26), "accent") for s in (-1, 1)],
        [ball((s * 0.5, -0.4, 0.1), (0.2, 0.12, 0.12), "accent", tilt=s * 0.5) for s in (-1, 1)],
    )
    return [
        tube((0, -0.5, 0), (0.42, 0.46, 0.38), "accent", taper=0.8),
        *eyes(0.15, -0.42, 0.34, 0.1),
        *caps[toy.top],
        *feet[toy.trim],
    ]


def snail(toy: Identity) -> list[Solid]:
    """Side view: patterned shell on an accent foot."""
    r = (0.52, 0.6, 0.66)[toy.build]
    stalk = (0.24, 0.32, 0.2)[toy.top]
    shells = (
        [ball((-0.2, 0.02, 0), (r, r, 0.4))],
        [tube((-0.2, 0.02, 0), (r, r * 0.9, 0.42), taper=0.25)],
        [ball((-0.2, -0.02, 0), (r, r * 0.85, 0.4)), ball((-0.3, r * 0.85, 0), (r * 0.5, r * 0.45, 0.3))],
    )
    return [
        ball((0, -0.66, 0), (0.95, 0.22, 0.3), "accent"),
        ball((0.68, -0.3, 0), (0.25, 0.4, 0.25), "accent"),
        *shells[toy.trim],
        *(tube((0.66 + dx, 0.1 + stalk / 2, dx), (0.05, stalk, 0.05), "accent") for dx in (-0.1, 0.14)),
        *(ball((0.66 + dx, 0.1 + stalk * 1.5, dx), (0.12, 0.12, 0.12), EYE) for dx in (-0.1, 0.14)),
        *(ball((0.7 + dx, 0.1 + stalk * 1.5, dx + 0.09), (0.06, 0.06, 0.05), DARK) for dx in (-0.1, 0.14)),
    ]


def train(toy: Identity) -> list[Solid]:
    """Side view: boiler and cab, accent chimney, roof and wheels."""
    r = (0.28, 0.33, 0.38)[toy.build]
    chimneys = (
        [tube((0.55, 0.45, 0), (0.13, 0.3, 0.13), "accent")],
        [tube((0.55, 0.45, 0), (0.12, 0.3, 0.12), "accent", taper=2.2)],
        [
            ball((0.55, 0.38, 0), (0.2, 0.24, 0.2), "accent"),
            ball((0.1, 0.32, 0), (0.16, 0.18, 0.16), "accent"),
        ],
    )
    spots = ((-0.55, 0.0, 0.55), (-0.45, 0.45), (-0.62, -0.2, 0.22, 0.62))[toy.trim]
    size = (0.24, 0.3, 0.2)[toy.trim]
    wheels = [
        part
        for x in spots
        for part in (
            ball((x, -0.56, 0.38), (size, size, 0.1), DARK),
            ball((x, -0.56, 0.45), (size * 0.6, size * 0.6, 0.08), "accent"),
        )
    ]
    return [
        tube((0.25, -0.05, 0), (r, 0.6, r), tilt=-1.5708),
        ball((0.86, -0.05, 0), (0.12, r, r), METAL),
        box((-0.5, 0.12, 0), (0.32, 0.46, 0.38)),
        box((-0.5, 0.62, 0), (0.44, 0.09, 0.46), "accent"),
        box((-0.5, 0.28, 0.38), (0.17, 0.15, 0.04), GLASS),
        box((0, -0.42, 0), (0.86, 0.1, 0.36), "accent"),
        *chimneys[toy.top],
        *wheels,
    ]


BUILDERS: dict[str, Callable[[Identity], list[Solid]]] = {
    "robot": robot, "fish": fish, "house": house, "car": car, "bear": bear, "duck": duck, "rocket": rocket,
    "boat": boat, "plane": plane, "mushroom": mushroom, "snail": snail, "train": train,
}  # fmt: skip


def build_parts(toy: Identity) -> list[Solid]:
    """All parts of a toy in its own coordinates, about −1..1 on each axis."""
    return BUILDERS[toy.kind](toy)
