"""What a segmenter finds of a subject in a picture, and whether that is good enough for a reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from dreamcache.training.data.shards.index import ModelRecord

Mask = NDArray[np.uint8]
INSIDE = 128
# Parts of the mask that are smaller than this share of its largest part are specks, not objects.
_SPECK = 0.15
_EDGE_PX = 2
_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Found:
    """mask: uint8 [h, w], 255 on the subject. confidence: 0-1. objects: how many of it the segmenter saw."""

    mask: Mask
    confidence: float
    objects: int = 1


class Segmenter(Protocol):
    """Finds subjects in pictures."""

    @property
    def models(self) -> tuple[ModelRecord, ...]:
        """What it runs; reading this loads nothing."""

    @property
    def settings(self) -> dict[str, float | str]:
        """Its choices."""

    def find(self, pictures: Sequence[Image.Image], subjects: Sequence[str]) -> list[Found | None]:
        """For each picture its subject, or None where nothing is found."""


@dataclass(frozen=True)
class Limits:
    """What a mask must keep to.

    Attributes:
        min_area, max_area: share of the picture that the subject covers.
        max_border: share of the picture's edge that it touches; a subject that is cut off makes half a reference.
        min_confidence: of the segmenter, 0-1.
        max_objects: several of a kind leave open which one is the subject.
    """

    min_area: float = 0.04
    max_area: float = 0.7
    max_border: float = 0.03
    min_confidence: float = 0.35
    max_objects: int = 1


@dataclass(frozen=True)
class MeasuredMask:
    """A cleaned mask, its measures, and the first limit that it breaks (None: it is good)."""

    mask: Mask
    area: float
    border: float
    objects: int
    fault: str | None


def measure_mask(found: Found | None, limits: Limits) -> MeasuredMask | None:
    """Measure a mask against the limits; None when nothing was found."""
    if found is None or not (found.mask >= INSIDE).any():
        return None
    mask, parts = clean_mask(found.mask)
    inside = mask >= INSIDE
    area = float(inside.mean())
    border = border_share(inside)
    objects = max(parts, found.objects)
    faults = {
        "confidence too low": found.confidence < limits.min_confidence,
        "several objects": objects > limits.max_objects,
        "too small": area < limits.min_area,
        "too large": area > limits.max_area,
        "cut off at the border": border > limits.max_border,
    }
    return MeasuredMask(
        mask, area, border, objects, next((name for name, holds in faults.items() if holds), None)
    )


def clean_mask(mask: Mask) -> tuple[Mask, int]:
    """The mask without specks, opaque inside, and soft at its edge alone; and how many parts it has.

    Specks are parts far smaller than the largest one. Low values far from the subject, as saliency has them, would
    leave a haze of background in the reference; low ones inside it, holes.
    """
    inside = mask >= INSIDE
    labels, count = ndimage.label(inside, structure=_NEIGHBOURS)
    if count == 0:
        return mask, 0
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    kept = areas >= _SPECK * areas.max()
    subject = kept[labels]
    near = ndimage.binary_dilation(subject, _NEIGHBOURS, iterations=_EDGE_PX) & ~(inside & ~subject)
    core = ndimage.binary_erosion(subject, _NEIGHBOURS, iterations=_EDGE_PX, border_value=1)
    return np.where(core, 255, np.where(near, mask, 0)).astype(np.uint8), int(kept.sum())


def border_share(inside: NDArray[np.bool_]) -> float:
    """The share of the picture's outermost pixels that lie inside, 0-1. inside: [h, w]."""
    edge = np.ones_like(inside)
    edge[1:-1, 1:-1] = False
    return float(inside[edge].mean())
