"""A toy or two in a scene, or one cut out on white: square pictures of any size with exact masks.

Pictures are drawn at twice their size and averaged down. References follow the paper (supplement, data
preparation): the subject alone on white, filling at least 0.7 of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.world.identity import Identity
from dreamcache.training.world.patterns import PATTERN_OF
from dreamcache.training.world.raycast import Light, cast, rotation
from dreamcache.training.world.scenes import SCENES, WHITE, Canvas, Scene
from dreamcache.training.world.toys.kinds import build_parts

Array = NDArray[np.float32]
Range = tuple[float, float]
SIZE = 64
"""Of pictures where nobody names another, in pixels: that of the miniature that ships."""
SUPERSAMPLING = 2
REFERENCE_FILL = (0.7, 0.95)


@dataclass(frozen=True)
class Pose:
    """How a toy stands: angles in radians; `scale` and `centre` (right, down) in shares of the picture."""

    yaw: float
    pitch: float
    roll: float
    scale: float
    centre: tuple[float, float]
    mirrored: bool

    @staticmethod
    def draw(rng: np.random.Generator) -> Pose:
        """A pose as targets have it: turned up to 35° to either side, slightly from above."""
        return Pose._draw(rng, (0.33, 0.41), (0.44, 0.56), (0.52, 0.58))

    @staticmethod
    def draw_beside(rng: np.random.Generator, place: int) -> Pose:
        """A pose of one of two toys, about half as large: on the left (0) or on the right (1)."""
        return Pose._draw(rng, (0.19, 0.22), ((0.24, 0.27), (0.73, 0.76))[place], (0.54, 0.6))

    @staticmethod
    def _draw(rng: np.random.Generator, scale: Range, right: Range, down: Range) -> Pose:
        return Pose(
            yaw=rng.uniform(-0.6, 0.6),
            pitch=rng.uniform(0.05, 0.35),
            roll=rng.uniform(-0.12, 0.12),
            scale=rng.uniform(*scale),
            centre=(rng.uniform(*right), rng.uniform(*down)),
            mirrored=bool(rng.random() < 0.5),
        )

    @property
    def view(self) -> Array:
        """Rotation [3, 3] from the toy to the viewer, mirrored if need be."""
        turn = rotation(2, self.roll) @ rotation(0, self.pitch) @ rotation(1, self.yaw)
        mirror = np.diag(np.asarray([-1 if self.mirrored else 1, 1, 1], np.float32))
        return np.asarray(turn @ mirror, np.float32)


@dataclass(frozen=True)
class Rendering:
    """`image` uint8 [size, size, 3]; `masks` uint8 [toys, size, size], the coverage of each 0..255."""

    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Of the only or first toy, [size, size]."""
        first: NDArray[np.uint8] = self.masks[0]
        return first


def _draw_light(rng: np.random.Generator, scene: Scene) -> Light:
    direction = np.asarray([rng.uniform(-0.7, 0.7), rng.uniform(0.5, 0.9), rng.uniform(0.7, 1.0)], np.float32)
    colour = np.asarray(scene.light, np.float32) * np.float32(rng.uniform(0.92, 1.05))
    return Light(direction / np.linalg.norm(direction), colour, scene.ambient)


def _halve(pixels: Array) -> Array:
    size = len(pixels) // SUPERSAMPLING
    halved: Array = pixels.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, -1).mean((1, 3))
    return halved


def _compose(
    placed: Sequence[tuple[Identity, Pose]], scene: Scene, rng: np.random.Generator, size: int
) -> Rendering:
    fine = size * SUPERSAMPLING
    canvas = Canvas(fine)
    scene.paint(canvas, rng, rng.uniform(0.48, 0.6))
    light = _draw_light(rng, scene)
    line = (np.arange(fine, dtype=np.float32) + 0.5) / fine
    drawn = [
        cast(
            build_parts(toy),
            (pose.view * pose.scale).astype(np.float32),
            (line - pose.centre[0], pose.centre[1] - line),
            {"body": toy.body_rgb, "accent": toy.accent_rgb},
            PATTERN_OF[toy.pattern],
            light,
        )
        for toy, pose in placed
    ]
    for _, covered in drawn:
        if scene.shadow > 0 and covered.any():
            rows, columns = np.nonzero(covered)
            x, half = line[columns].mean(), (columns.max() - columns.min()) / fine / 2
            fall = ((line[None, :] - x) / (half * 1.05)) ** 2 + (
                (line[:, None] - line[rows.max()]) / 0.06
            ) ** 2
            canvas.pixels *= 1 - scene.shadow * np.clip(1.3 - fall, 0, 1)[..., None]
    pixels = canvas.pixels
    for colour, covered in drawn:
        pixels = np.where(covered[..., None], colour, pixels)
    image = np.clip(_halve(pixels), 0, 1)
    masks = np.stack([_halve(covered.astype(np.float32)[..., None])[..., 0] for _, covered in drawn])
    return Rendering(np.round(image * 255).astype(np.uint8), np.round(masks * 255).astype(np.uint8))


def render(
    toy: Identity, scene: str, rng: np.random.Generator, pose: Pose | None = None, size: int = SIZE
) -> Rendering:
    """The toy in a scene, in a drawn pose unless one is given.

    Raises KeyError for a scene that the world does not have.
    """
    place = SCENES[scene]
    return _compose([(toy, Pose.draw(rng) if pose is None else pose)], place, rng, size)


def render_pair(
    toys: tuple[Identity, Identity], scene: str, rng: np.random.Generator, size: int = SIZE
) -> Rendering:
    """Two toys in a scene, the first on the left, each in a pose of its own.

    Raises KeyError for a scene that the world does not have.
    """
    place = SCENES[scene]
    return _compose([(toy, Pose.draw_beside(rng, side)) for side, toy in enumerate(toys)], place, rng, size)


def fit_pose(toy: Identity, pose: Pose, fill: float, size: int = SIZE) -> Pose:
    """The same pose, centred and scaled so that the subject's longer side fills about `fill` of the frame.

    The side is measured in pixels of a trial at a quarter of the scale, so `fill` is met to a few hundredths.
    """
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    trial = 0.25
    flat = {"body": toy.body_rgb, "accent": toy.accent_rgb}
    light = Light(np.asarray([0, 0, 1], np.float32), np.ones(3, np.float32), 1.0)
    grid = (line - 0.5, 0.5 - line)
    _, covered = cast(
        build_parts(toy), (pose.view * trial).astype(np.float32), grid, flat, PATTERN_OF["plain"], light
    )
    rows, columns = np.nonzero(covered)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    scale = trial * fill * size / extent
    middle = (
        (columns.min() + columns.max() + 1) / 2 / size - 0.5,
        (rows.min() + rows.max() + 1) / 2 / size - 0.5,
    )
    grow = scale / trial
    centre = (0.5 - middle[0] * grow, 0.5 - middle[1] * grow)
    return Pose(pose.yaw, pose.pitch, pose.roll, scale, centre, pose.mirrored)


def render_reference(toy: Identity, rng: np.random.Generator, size: int = SIZE) -> Rendering:
    """The toy alone on white, in a pose of its own, filling 0.7 to 0.95 of the frame."""
    pose = fit_pose(toy, Pose.draw(rng), rng.uniform(*REFERENCE_FILL), size)
    return _compose([(toy, pose)], SCENES[WHITE], rng, size)
