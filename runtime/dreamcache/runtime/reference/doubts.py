"""Is a cut-out to be trusted? What its mask alone says: its share of the picture, of the edge, and its holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The transparency of a cut-out leaves more than this share of the picture out.
_LEAST_REMOVED = 0.02
MOST_OF_EDGE = 0.2
# Of the subject's own box, and of its area.
_LEAST_OF_BOX, _MOST_HOLLOW = 0.12, 0.6
# Of the picture: what a segmenter finds beyond it is seldom one thing.
_MOST_OF_PICTURE = 0.6
_INSIDE = 128

Mask = NDArray[np.bool_]


def removes_nothing(alpha: Image.Image) -> bool:
    """Whether a transparency, mode "L", tells no subject from a background: the same or opaque nearly everywhere."""
    levels = alpha.histogram()
    one_level = max(levels[1:]) == sum(levels)
    return one_level or sum(levels[:_INSIDE]) < _LEAST_REMOVED * sum(levels)


def doubt_of(subject: Mask) -> str:
    """Why a mask [h, w] is no likely subject, in a few words; empty for one that may well be."""
    edge = edge_share(subject)
    if edge > MOST_OF_EDGE:
        return f"the subject found takes {edge:.0%} of the picture's edge"
    rows, columns = np.nonzero(subject.any(axis=1))[0], np.nonzero(subject.any(axis=0))[0]
    if not rows.size:
        return ""
    area = np.count_nonzero(subject)
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    if area < _LEAST_OF_BOX * box:
        return "the subject found is scattered"
    hollow = np.count_nonzero(surrounded(subject) & ~subject)
    return "the subject found is hollow" if hollow > _MOST_HOLLOW * area else ""


def doubt_of_segmenter(subject: Mask) -> str:
    """The same of a mask that a network made: without its kind of subject it takes nearly everything."""
    share = float(subject.mean())
    much = f"the subject found takes {share:.0%} of the picture" if share > _MOST_OF_PICTURE else ""
    return doubt_of(subject) or much


def agreement(one: Image.Image, other: Image.Image) -> float:
    """Intersection over union of two masks, mode "L", of one size, 0-1."""
    first, second = (np.asarray(mask) >= _INSIDE for mask in (one, other))
    return int(np.count_nonzero(first & second)) / max(int(np.count_nonzero(first | second)), 1)


def edge_share(subject: Mask) -> float:
    """The share of the picture's outermost pixels that are subject, 0-1."""
    outermost = np.concatenate([subject[0], subject[-1], subject[1:-1, 0], subject[1:-1, -1]])
    return float(outermost.mean())


def surrounded(subject: Mask) -> Mask:
    """The pixels that have subject on all four sides, in their row and in their column: [h, w]."""
    inside = np.ones_like(subject)
    for turned in range(4):
        seen = np.logical_or.accumulate(np.rot90(subject, turned), axis=0)
        inside &= np.rot90(seen, -turned)
    return inside


def with_doubt(how: str, doubt: str) -> str:
    """The sentence of a rule that was taken, and what to do where its result is doubtful."""
    return f"{how}; doubtful: {doubt}; look at the result, or give a mask" if doubt else how
