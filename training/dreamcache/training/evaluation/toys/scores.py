"""The scores: identity accuracy, scene accuracy and masked colour distance, with bootstrap intervals.

Identity accuracy is the share of the attributes that the prompt did not name (body colour, accent colour,
pattern) which the judge finds in the picture as they are on the reference toy. Scene and style accuracy are the
shares of pictures in which it finds the prompted scene and style. Colour distance is the CIE76 ΔE between the mean
sRGB colours of the reference's and the picture's toy, under the reference's exact mask and the mask that the judge
finds. Every toy weighs the same, however many pictures show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.evaluation.intervals import Interval, cluster_bootstrap
from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier
from dreamcache.training.evaluation.toys.picture_quality import PictureQuality
from dreamcache.training.world.identity import Identity
from dreamcache.training.world.styles import PLAIN

IDENTITY_ATTRIBUTES = ("body", "accent", "pattern")


@dataclass(frozen=True)
class Scores:
    """How well pictures of one condition show their toys, scenes and styles; quality: None where it is not measured."""

    identity_accuracy: Interval
    scene_accuracy: Interval
    kind_accuracy: Interval
    colour_distance: Interval
    style_accuracy: Interval
    attributes: dict[str, float]
    quality: PictureQuality | None = None


def _lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB [n, 3] in 0..1 → CIE L*a*b* under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.asarray(
        [
            [0.4124564, 0.2126729, 0.0193339],
            [0.3575761, 0.7151522, 0.1191920],
            [0.1804375, 0.0721750, 0.9503041],
        ]
    )
    ratio = xyz / np.asarray([0.95047, 1.0, 1.08883])
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def mean_colour(pictures: NDArray[np.uint8], masks: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean L*a*b* colour [n, 3] of pictures uint8 [n, h, w, 3] under masks [n, h, w] in 0..1."""
    weight = masks.astype(np.float64)[..., None] + 1e-6
    return _lab((pictures / 255 * weight).sum((1, 2)) / weight.sum((1, 2)))


def score(
    judge: AttributeClassifier,
    pictures: NDArray[np.uint8],
    toys: Sequence[Identity],
    scenes: Sequence[str],
    references: NDArray[np.uint8],
    reference_masks: NDArray[np.float32],
    styles: Sequence[str] | None = None,
) -> Scores:
    """Scores of pictures [n, size, size, 3] that should show toys[i] in scenes[i] as on references[i].

    styles: which the prompts ask for; None is none.
    """
    verdict = judge.classify(pictures)
    _, groups = np.unique([toy.key for toy in toys], return_inverse=True)

    def right(attribute: str, wanted: Sequence[str]) -> NDArray[np.float64]:
        return verdict.are(attribute, wanted).astype(np.float64)

    parts = {name: right(name, [getattr(toy, name) for toy in toys]) for name in IDENTITY_ATTRIBUTES}
    distance = np.linalg.norm(
        mean_colour(pictures, verdict.masks) - mean_colour(references, reference_masks), axis=1
    )
    return Scores(
        identity_accuracy=cluster_bootstrap(np.mean(list(parts.values()), axis=0), groups),
        scene_accuracy=cluster_bootstrap(right("scene", scenes), groups),
        kind_accuracy=cluster_bootstrap(right("kind", [toy.kind for toy in toys]), groups),
        style_accuracy=cluster_bootstrap(right("style", styles or [PLAIN] * len(toys)), groups),
        colour_distance=cluster_bootstrap(distance, groups),
        attributes={name: float(values.mean()) for name, values in parts.items()},
    )
