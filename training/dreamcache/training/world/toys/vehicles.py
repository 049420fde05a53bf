"""Vehicles, and the house."""

from __future__ import annotations

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.raycast import Solid
from dreamcache.training.world.toys.shapes import DARK, GLASS, METAL, ball, box, tube


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
