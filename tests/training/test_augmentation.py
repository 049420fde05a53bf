"""Augmentation of references: as often and as far as the paper says, and never off the white."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dreamcache.training.augmentation import ERASE, ERASE_AREA, FLIP, JITTER, augment_reference

DRAWS = 800
COLOUR = (120, 60, 30)


def augmented(picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [augment_reference(picture, rng) for _ in range(DRAWS)]


def block() -> NDArray[np.uint8]:
    """White with a coloured block on the left."""
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[8:56, 4:30] = COLOUR
    return picture


def test_it_is_seeded_and_leaves_its_input_alone() -> None:
    picture = block()
    kept = picture.copy()
    for seed in range(20):
        one, again = (augment_reference(picture, np.random.default_rng(seed)) for _ in range(2))
        assert one.tobytes() == again.tobytes()
        assert one.shape == picture.shape
        assert one.dtype == np.uint8
    assert np.array_equal(picture, kept)
    assert len({a.tobytes() for a in augmented(picture)}) > DRAWS / 4


def test_half_are_flipped_and_the_background_stays_white() -> None:
    picture = block()
    flips = 0
    for result in augmented(picture):
        toy = (result != 255).any(-1)
        flipped = np.nonzero(toy)[1].mean() > 32
        original = (picture != 255).any(-1)
        assert not (toy & ~(original[:, ::-1] if flipped else original)).any()
        flips += flipped
    # four standard deviations of 800 draws
    assert flips / DRAWS == pytest.approx(FLIP, abs=0.07)


def test_erasing_is_as_frequent_and_as_large_as_stated() -> None:
    full = np.full((64, 64, 3), COLOUR, np.uint8)
    areas = np.asarray([(result == 255).all(-1).mean() for result in augmented(full)])
    erased = areas[areas > 0]
    assert len(erased) / DRAWS == pytest.approx(ERASE, abs=0.07)
    # sides are rounded to whole pixels
    assert erased.min() >= ERASE_AREA[0] * 0.9
    assert erased.max() <= ERASE_AREA[1] * 1.1
    assert erased.max() > 0.2


def test_colours_change_seldom_and_not_far() -> None:
    full = np.full((64, 64, 3), COLOUR, np.uint8)
    changes = []
    for result in augmented(full):
        kept = result[(result != 255).any(-1)].astype(int)
        assert (kept == kept[0]).all(), "one colour stays one colour"
        changes.append(np.abs(kept[0] - np.asarray(COLOUR)).max())
    changed = np.asarray(changes)
    assert (changed > 0).mean() == pytest.approx(JITTER, abs=0.045)
    assert 10 < changed.max() <= 80
