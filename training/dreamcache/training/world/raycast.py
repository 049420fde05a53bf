"""Solid parts drawn by casting parallel rays: ellipsoids, boxes and tapered tubes with a depth buffer.

Rays are parallel, so in a part's own frame (where it is a unit solid) all rays share one direction and their
origins are linear in the picture's coordinates. Each part is intersected inside its bounding rectangle only.
Coordinates: x right, y up, z towards the viewer; a toy fills about −1..1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
# the precision of these is the precision that parts are intersected in
Coordinates = NDArray[np.floating[Any]]
Shape = Literal["ball", "box", "tube"]
Material = Literal["body", "accent"] | tuple[float, float, float]
# (part's own coordinates [3, n], toy's coordinates [3, n], toy's normals [3, n]) → share of accent [n], 0..1
Pattern = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Solid:
    """A unit solid: scaled by `size` (half extents), turned by `tilt` (radians about z), moved to `centre`.

    `taper` is the radius of a tube's upper end over that of its lower end: 1 a cylinder, 0 a cone.
    """

    shape: Shape
    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    material: Material = "body"
    tilt: float = 0.0
    taper: float = 1.0


@dataclass(frozen=True)
class Light:
    """A distant lamp: `direction` [3] points to it; `colour` [3] and `ambient` scale the surface's own."""

    direction: Array
    colour: Array
    ambient: float


def rotation(axis: int, angle: float) -> Array:
    """Rotation matrix [3, 3] about axis 0, 1 or 2 by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    matrix = np.eye(3, dtype=np.float32)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def _nearest_hit(part: Solid, origin: Array, direction: Array) -> tuple[Array, NDArray[np.bool_]]:
    """Largest τ [n] at which rays origin [3, n] + τ·direction [3] meet the unit solid, and which do."""
    if part.shape == "box":
        step = np.where(np.abs(direction) < 1e-5, np.float32(1e-5), direction)[:, None]
        a, b = (-1 - origin) / step, (1 - origin) / step
        leave, enter = np.maximum(a, b).min(0), np.minimum(a, b).max(0)
        return leave, enter <= leave
    if part.shape == "ball":
        a2 = float(direction @ direction)
        half_b = direction @ origin
        root = half_b * half_b - a2 * (np.einsum("in,in->n", origin, origin) - 1)
        return (np.sqrt(np.maximum(root, 0)) - half_b) / a2, root >= 0
    slope = (part.taper - 1) / 2
    radius = (part.taper + 1) / 2 + slope * origin[1]
    dy = slope * direction[1]
    a2 = float(direction[0] ** 2 + direction[2] ** 2 - dy**2)
    half_b = direction[0] * origin[0] + direction[2] * origin[2] - dy * radius
    root = half_b * half_b - a2 * (origin[0] ** 2 + origin[2] ** 2 - radius**2)
    wide = np.sqrt(np.maximum(root, 0))
    step_y = direction[1] if abs(direction[1]) > 1e-5 else np.float32(1e-5)
    ends = np.stack([(-1 - origin[1]) / step_y, (1 - origin[1]) / step_y])
    leave = np.minimum((wide - half_b) / a2, ends.max(0))
    enter = np.maximum((-wide - half_b) / a2, ends.min(0))
    return leave, (root >= 0) & (enter <= leave)


def _odd_power(values: Array) -> Array:
    """Eleventh power by products: flat near 0, steep near ±1, which reads as a bevelled edge."""
    square = values * values
    fourth = square * square
    eleventh: Array = fourth * fourth * square * values
    return eleventh


def _own_normal(part: Solid, point: Array) -> Array:
    """Outward direction [3, n] at points [3, n] of the unit solid; boxes get softly bevelled edges."""
    if part.shape == "ball":
        return point
    if part.shape == "box":
        return _odd_power(point)
    slope = (part.taper - 1) / 2
    radius = np.maximum((part.taper + 1) / 2 + slope * point[1], 1e-3)
    return np.stack([point[0] / radius, _odd_power(point[1]) - slope, point[2] / radius])


def _surface(
    part: Solid, own: Array, toy: Array, normal: Array, colours: dict[str, Array], pattern: Pattern
) -> Array:
    """Unlit colours [n, 3] at points [3, n], in the part's own coordinates and in the toy's."""
    if part.material == "body":
        share = pattern(own, toy, normal)[:, None]
        painted: Array = colours["body"] * (1 - share) + colours["accent"] * share
        return painted
    plain = colours["accent"] if part.material == "accent" else np.asarray(part.material, np.float32)
    return np.broadcast_to(plain, (own.shape[1], 3))


def _shade(surface: Array, normal: Array, light: Light) -> Array:
    """Colours [n, 3] under the light (Blinn and Phong); normal: [3, n] in the viewer's coordinates."""
    half_vector = light.direction + np.asarray([0, 0, 1], np.float32)
    half_vector /= np.linalg.norm(half_vector)
    lambert = np.maximum(light.direction @ normal, 0)
    halfway = np.maximum(half_vector @ normal, 0)
    for _ in range(4):  # the sixteenth power by squaring
        halfway = halfway * halfway
    lit: Array = (
        surface * (light.ambient + (1.08 - light.ambient) * lambert)[:, None] * light.colour
        + 0.22 * halfway[:, None]
    )
    return lit


def cast(
    parts: Sequence[Solid],
    view: Array,
    grid: tuple[Coordinates, Coordinates],
    colours: dict[str, Array],
    pattern: Pattern,
    light: Light,
) -> tuple[Array, NDArray[np.bool_]]:
    """Draw parts into a picture.

    view: [3, 3], toy → viewer coordinates times the scale; grid: picture coordinates of the columns [w],
    rising, and rows [h], falling; colours: "body" and "accent" [3] in 0..1. Returns colour [h, w, 3]
    (unclipped) and coverage [h, w].
    """
    columns, rows = grid
    height, width = len(rows), len(columns)
    colour = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), -np.inf, np.float32)
    unscaled = view / np.linalg.norm(view[0])
    to_toy = np.linalg.inv(view).astype(np.float32)
    for part in parts:
        turn = rotation(2, part.tilt)
        size = np.asarray(part.size, np.float32)
        centre = np.asarray(part.centre, np.float32)
        middle = view @ centre
        reach = np.abs(view @ (turn * size)).sum(1)
        x0, x1 = np.searchsorted(columns, [middle[0] - reach[0], middle[0] + reach[0]])
        # rows run from the top of the picture (large y) to the bottom
        y0, y1 = height - np.searchsorted(rows[::-1], [middle[1] + reach[1], middle[1] - reach[1]])
        if x0 >= x1 or y0 >= y1:
            continue
        to_own = (turn.T / size[:, None]).astype(np.float32)
        direction = to_own @ to_toy[:, 2]
        xs, ys = np.meshgrid(columns[x0:x1], rows[y0:y1])
        plane = np.stack([xs.ravel(), ys.ravel()])
        origin = (to_own @ to_toy[:, :2]) @ plane - (to_own @ centre)[:, None]
        tau, hit = _nearest_hit(part, origin, direction)
        window = depth[y0:y1, x0:x1]
        hit &= tau > window.ravel()
        chosen = np.flatnonzero(hit)
        if not len(chosen):
            continue
        own = origin[:, chosen] + tau[chosen] * direction[:, None]
        normal: Array = turn @ (_own_normal(part, own) / size[:, None])
        normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-6)
        toy = turn @ (own * size[:, None]) + centre[:, None]
        lit = _shade(_surface(part, own, toy, normal, colours, pattern), unscaled @ normal, light)
        ry, rx = np.divmod(chosen, x1 - x0)
        window[ry, rx] = tau[chosen]
        colour[y0 + ry, x0 + rx] = lit
    return colour, np.isfinite(depth)
