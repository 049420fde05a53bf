"""The places that a toy can stand in, painted with a few soft shapes on a square canvas.

Each scene knows the words a caption uses for it and the light that falls there; where its ground begins is
drawn with the picture. Positions are shares of the picture: x to the right, y downwards, 0..1. Details are
few and large: the toy is the subject.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Array, Array]:
    """Pixel centres: x [1, size] and y [size, 1] in 0..1."""
    line = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return line[None, :], line[:, None]


class Canvas:
    """A picture [size, size, 3] in 0..1 that shapes are painted onto in order."""

    def __init__(self, size: int) -> None:
        self.x, self.y = _grid(size)
        self.pixels: Array = np.zeros((size, size, 3), np.float32)

    def gradient(self, top: Colour, bottom: Colour, start: float = 0.0, end: float = 1.0) -> None:
        """Fill rows from `start` to `end` with colours running from `top` to `bottom`."""
        share = np.clip((self.y - start) / (end - start), 0, 1)[..., None]
        rows = (self.y[:, 0] >= start) & (self.y[:, 0] < end)
        band = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
        self.pixels[rows] = band[rows]

    def disc(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """An ellipse with half axes rx and ry."""
        inside = ((self.x - x) / rx) ** 2 + ((self.y - y) / ry) ** 2 < 1
        self.pixels[inside] = colour

    def rect(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """An axis-parallel rectangle."""
        size = len(self.pixels)
        rows, columns = (
            slice(max(0, round(y0 * size)), round(y1 * size)),
            slice(max(0, round(x0 * size)), round(x1 * size)),
        )
        self.pixels[rows, columns] = colour

    def triangle(self, x: float, top: float, bottom: float, half_width: float, colour: Colour) -> None:
        """An upright triangle over [x − half_width, x + half_width]."""
        fall = (self.y - top) / (bottom - top)
        inside = (np.abs(self.x - x) < half_width * fall) & (fall < 1)
        self.pixels[inside] = colour

    def hills(self, base: float, height: float, waves: float, shift: float, colour: Colour) -> None:
        """Everything below a wavy line."""
        line = base - height * (
            0.6 * np.sin(waves * self.x + shift) + 0.4 * np.sin(2.3 * waves * self.x + 2 * shift)
        )
        self.pixels[np.broadcast_to(self.y > line, self.pixels.shape[:2])] = colour


Painter = Callable[[Canvas, np.random.Generator, float], None]


@dataclass(frozen=True)
class Scene:
    """A place: `words` as captions say it, `paint(canvas, rng, horizon)`, light, and how dark shadows are."""

    name: str
    words: tuple[str, ...]
    paint: Painter
    light: Colour = (1.0, 1.0, 1.0)
    ambient: float = 0.5
    shadow: float = 0.35


def _beach(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.35, 0.65, 0.95), (0.75, 0.88, 0.98), 0, h)
    c.disc(rng.uniform(0.1, 0.9), rng.uniform(0.06, 0.2), 0.08, 0.08, (1.0, 0.95, 0.6))
    c.gradient((0.10, 0.45, 0.75), (0.25, 0.68, 0.82), h, h + 0.14)
    c.gradient((0.95, 0.86, 0.62), (0.86, 0.73, 0.46), h + 0.14, 1.01)


def _forest(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.55, 0.75, 0.55), (0.30, 0.50, 0.30), 0, h)
    for x in np.linspace(0.05, 0.95, 4) + rng.uniform(-0.06, 0.06, 4):
        c.rect(x - 0.035, 0.1, x + 0.035, h + 0.02, (0.30, 0.20, 0.12))
        c.triangle(x, rng.uniform(-0.15, 0.05), h - 0.1, 0.17, (0.06, rng.uniform(0.28, 0.4), 0.12))
    c.gradient((0.22, 0.40, 0.15), (0.14, 0.28, 0.10), h, 1.01)


def _snow(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.60, 0.70, 0.82), (0.84, 0.89, 0.95), 0, h)
    c.hills(h - 0.04, 0.07, rng.uniform(4, 7), rng.uniform(0, 6), (0.74, 0.82, 0.92))
    c.gradient((0.95, 0.97, 1.0), (0.84, 0.90, 0.97), h, 1.01)
    for x, y in rng.uniform(0, 1, (14, 2)):
        c.disc(x, y, 0.016, 0.016, (1.0, 1.0, 1.0))


def _desert(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.98, 0.70, 0.35), (1.0, 0.88, 0.62), 0, 1.01)
    c.hills(h, 0.09, rng.uniform(3, 6), rng.uniform(0, 6), (0.82, 0.52, 0.28))
    c.gradient((0.90, 0.62, 0.34), (0.80, 0.48, 0.24), h + 0.12, 1.01)
    x = rng.choice([rng.uniform(0.05, 0.2), rng.uniform(0.8, 0.95)])
    c.rect(x - 0.03, h - 0.22, x + 0.03, h + 0.1, (0.20, 0.45, 0.22))
    c.rect(x - 0.09, h - 0.12, x + 0.09, h - 0.07, (0.20, 0.45, 0.22))


def _city(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.04, 0.05, 0.16), (0.20, 0.16, 0.34), 0, h)
    for x in np.arange(0, 1, 0.17).tolist():
        top = rng.uniform(0.05, h - 0.2)
        c.rect(x, top, x + 0.14, h, (0.12, 0.13, 0.22))
        for y in np.arange(top + 0.05, h - 0.05, 0.1).tolist():
            if rng.random() < 0.7:
                c.rect(x + 0.025, y, x + 0.06, y + 0.045, (1.0, 0.85, 0.4))
            if rng.random() < 0.7:
                c.rect(x + 0.085, y, x + 0.12, y + 0.045, (1.0, 0.85, 0.4))
    c.gradient((0.22, 0.22, 0.26), (0.14, 0.14, 0.17), h, 1.01)


def _kitchen(c: Canvas, rng: np.random.Generator, h: float) -> None:
    shift = rng.uniform(0, 0.2)
    wall = np.where((np.floor((c.x + shift) / 0.2) + np.floor(c.y / 0.2)) % 2 > 0, 1.0, 0.9).astype(
        np.float32
    )
    c.pixels[:] = wall[..., None] * np.asarray((0.80, 0.93, 0.88), np.float32)
    c.rect(0, h, 1, h + 0.05, (0.55, 0.36, 0.22))
    c.gradient((0.78, 0.58, 0.38), (0.66, 0.46, 0.28), h + 0.05, 1.01)


def _space(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.02, 0.02, 0.08), (0.10, 0.04, 0.20), 0, 1.01)
    for x, y in rng.uniform(0, 1, (16, 2)):
        c.disc(x, y, 0.013, 0.013, (1.0, 1.0, 0.9))
    x, y = rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.25)
    c.disc(x, y, 0.13, 0.13, (0.75, 0.50, 0.35))
    c.disc(x, y, 0.22, 0.035, (0.90, 0.80, 0.60))
    c.hills(h + 0.16, 0.03, 6.0, rng.uniform(0, 6), (0.45, 0.45, 0.50))


def _underwater(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.20, 0.72, 0.85), (0.02, 0.22, 0.48), 0, 1.01)
    c.hills(h + 0.2, 0.03, rng.uniform(5, 8), rng.uniform(0, 6), (0.62, 0.60, 0.45))
    for x in (rng.uniform(0.02, 0.2), rng.uniform(0.8, 0.98)):
        c.disc(x, h + 0.1, 0.03, 0.28, (0.05, 0.42, 0.30))
    for x, y in rng.uniform(0.03, 0.9, (6, 2)):
        c.disc(x, y, 0.028, 0.028, (0.70, 0.92, 0.98))


def _meadow(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.45, 0.72, 0.98), (0.82, 0.92, 1.0), 0, 1.01)
    for x in rng.uniform(0, 1, 2):
        c.disc(x, rng.uniform(0.08, 0.22), 0.16, 0.06, (1.0, 1.0, 1.0))
    c.hills(h, 0.04, rng.uniform(3, 6), rng.uniform(0, 6), (0.42, 0.74, 0.28))
    c.gradient((0.40, 0.74, 0.26), (0.26, 0.58, 0.18), h + 0.05, 1.01)
    for x, y in zip(rng.uniform(0, 1, 10), rng.uniform(h + 0.08, 1, 10), strict=True):
        c.disc(x, y, 0.025, 0.025, (1.0, 0.95, 0.5) if rng.random() < 0.5 else (1.0, 0.75, 0.85))


def _library(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.pixels[:] = (0.36, 0.22, 0.12)
    books = np.asarray([(0.6, 0.2, 0.2), (0.2, 0.35, 0.3), (0.7, 0.6, 0.35), (0.25, 0.25, 0.42)], np.float32)
    for top in (0.02, 0.28):
        for x in np.arange(0.01, 1, 0.085).tolist():
            lower = rng.uniform(0, 0.05)
            c.rect(x, top + lower, x + 0.07, top + 0.22, tuple(books[rng.integers(4)]))
    c.gradient((0.30, 0.14, 0.12), (0.42, 0.16, 0.16), h, 1.01)


def _stage(c: Canvas, rng: np.random.Generator, h: float) -> None:
    folds = 0.75 + 0.25 * np.sin(2 * np.pi * c.x * 6 + rng.uniform(0, 6))
    c.pixels[:] = np.broadcast_to(
        folds[..., None] * np.asarray((0.62, 0.05, 0.12), np.float32), c.pixels.shape
    )
    c.gradient((0.58, 0.40, 0.22), (0.44, 0.28, 0.14), h, 1.01)
    c.disc(0.5, h + 0.2, 0.46, 0.11, (0.92, 0.80, 0.52))


def _mountains(c: Canvas, rng: np.random.Generator, h: float) -> None:
    c.gradient((0.50, 0.45, 0.75), (0.98, 0.75, 0.70), 0, h)
    for x in (rng.uniform(0.0, 0.3), rng.uniform(0.65, 1.0), rng.uniform(0.35, 0.6)):
        top = rng.uniform(0.06, 0.22)
        c.triangle(x, top, h + 0.02, 0.4, (0.36, 0.34, 0.44))
        c.triangle(x, top, top + 0.13, 0.4 * 0.13 / (h + 0.02 - top), (0.96, 0.96, 1.0))
    c.gradient((0.46, 0.48, 0.40), (0.34, 0.36, 0.30), h, 1.01)


def _white(c: Canvas, rng: np.random.Generator, h: float) -> None:  # noqa: ARG001
    c.pixels[:] = 1.0


WHITE = "white"

SCENES: dict[str, Scene] = {
    scene.name: scene
    for scene in (
        Scene("beach", ("on the beach", "at the seaside"), _beach, (1.0, 0.98, 0.92), 0.52),
        Scene("forest", ("in the forest", "among the trees"), _forest, (0.94, 1.0, 0.92), 0.50),
        Scene("snow", ("in the snow", "on a snowy day"), _snow, (0.96, 0.98, 1.0), 0.56),
        Scene("desert", ("in the desert", "among sand dunes"), _desert, (1.0, 0.95, 0.86), 0.50),
        Scene("city", ("in the city at night", "on a street at night"), _city, (0.94, 0.94, 1.0), 0.50),
        Scene("kitchen", ("in the kitchen", "on a kitchen table"), _kitchen, (1.0, 0.99, 0.95), 0.55),
        Scene("space", ("in space", "among the stars"), _space, (0.98, 0.98, 1.0), 0.46),
        Scene(
            "underwater",
            ("under water", "at the bottom of the sea"),
            _underwater,
            (0.88, 0.98, 1.0),
            0.56,
            0.2,
        ),
        Scene("meadow", ("in a meadow", "among flowers"), _meadow, (1.0, 1.0, 0.96), 0.54),
        Scene("library", ("in the library", "in front of books"), _library, (1.0, 0.96, 0.90), 0.52),
        Scene("stage", ("on a stage", "in front of a red curtain"), _stage, (1.0, 0.97, 0.92), 0.48),
        Scene(
            "mountains", ("in the mountains", "in front of a mountain"), _mountains, (1.0, 0.95, 0.95), 0.52
        ),
        Scene(WHITE, ("on a white background", "on white"), _white, (1.0, 1.0, 1.0), 0.55, 0.0),
    )
}
