"""Toys with a face."""

from __future__ import annotations

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.raycast import Solid
from dreamcache.training.world.toys.shapes import DARK, EYE, METAL, ball, box, eyes, tube


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
