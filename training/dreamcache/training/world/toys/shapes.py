"""The solids and colours that toys are built of."""

from __future__ import annotations

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
