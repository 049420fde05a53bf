"""Whether generated pictures look like the world's renders: as sharp, and alike to the judge's eye.

Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000), of generated pictures over that of renders of
the same toys in the same scenes: 1 is as sharp, less is blurred, more is noisy. The Fréchet distance (Heusel et al.
2017, arXiv 1706.08500) is between Gaussians of the judge's features; it falls with the number of pictures, so that
values of as many are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier
from dreamcache.training.world.identity import Identity
from dreamcache.training.world.render import render

LUMA = (0.299, 0.587, 0.114)
FEWEST_PIXELS = 9
RENDER_STREAM = 4_000_037


@dataclass(frozen=True)
class Renders:
    """pictures: uint8 [n, size, size, 3]; masks: of the toys, [n, size, size] in 0..1."""

    pictures: NDArray[np.uint8]
    masks: NDArray[np.float32]


@dataclass(frozen=True)
class PictureQuality:
    """sharpness, toy_sharpness: generated over rendered, of whole pictures and of the toys alone.

    frechet_distance: None of fewer than two pictures, which have no covariance.
    """

    sharpness: float
    toy_sharpness: float
    frechet_distance: float | None


def render_toys(toys: Sequence[Identity], scenes: Sequence[str], size: int) -> Renders:
    """Each toy in its scene, in a pose of its own; the same every time."""
    drawn = [
        render(toy, scene, np.random.default_rng([RENDER_STREAM, number]), size=size)
        for number, (toy, scene) in enumerate(zip(toys, scenes, strict=True))
    ]
    masks = np.stack([one.mask for one in drawn]).astype(np.float32) / np.float32(255)
    return Renders(np.stack([one.image for one in drawn]), masks)


def measure_quality(
    judge: AttributeClassifier, pictures: NDArray[np.uint8], renders: Renders
) -> PictureQuality:
    """Of pictures uint8 [n, size, size, 3] beside as many renders; the judge finds the toys of the pictures."""
    masks = judge.classify(pictures).masks
    return PictureQuality(
        sharpness=mean_sharpness(pictures) / mean_sharpness(renders.pictures),
        toy_sharpness=mean_sharpness(pictures, masks) / mean_sharpness(renders.pictures, renders.masks),
        frechet_distance=(
            frechet_distance(judge.features(pictures), judge.features(renders.pictures))
            if len(pictures) > 1
            else None
        ),
    )


def mean_sharpness(pictures: NDArray[np.uint8], masks: NDArray[np.float32] | None = None) -> float:
    """Mean over pictures uint8 [n, h, w, 3] of the variance of their Laplacian, grey values 0 to 255.

    masks: [n, h, w] in 0..1, where alone it counts; pictures with next to nothing in theirs are left out.
    """
    grey = pictures.astype(np.float64) @ np.asarray(LUMA)
    edges = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    laplacian = edges - 4 * grey[:, 1:-1, 1:-1]
    if masks is None:
        return float(laplacian.var((1, 2)).mean())
    inside = masks[:, 1:-1, 1:-1] > 0.5
    values = [
        float(one[part].var())
        for one, part in zip(laplacian, inside, strict=True)
        if part.sum() >= FEWEST_PIXELS
    ]
    return float(np.mean(values)) if values else 0.0


def frechet_distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Between Gaussians of two sets of features [n, d], n at least 2."""
    first, second = (np.cov(part.astype(np.float64), rowvar=False) for part in (one, other))
    apart = float(np.square(one.mean(0, np.float64) - other.mean(0, np.float64)).sum())
    # the root of a product of covariances has the roots of its eigenvalues, which are real and not negative
    roots = np.sqrt(np.clip(np.linalg.eigvals(first @ second).real, 0, None))
    return max(0.0, apart + float(np.trace(first) + np.trace(second) - 2 * roots.sum()))
