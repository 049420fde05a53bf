"""Pictures of toys: seeded, with exact masks, in every combination, and references as the paper wants them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dreamcache.training.world.identity import COLOURS, KINDS, PATTERNS, Identity
from dreamcache.training.world.render import REFERENCE_FILL, SIZE, Pose, fit_pose, render, render_reference
from dreamcache.training.world.samples import PairSample, Sample, draw_pair, draw_sample, draw_stylised
from dreamcache.training.world.scenes import SCENES, WHITE, Canvas
from dreamcache.training.world.styles import restyle

TOY = Identity("robot", "red", "blue", "striped", 1, 1, 1)
POSE = Pose(yaw=0.3, pitch=0.2, roll=0.05, scale=0.36, centre=(0.5, 0.55), mirrored=False)
# fit_pose measures a trial of about half the size to the pixel
FILL_ERROR = 2.5 / SIZE


def same(one: Sample, other: Sample) -> bool:
    pictures = ("target", "mask", "reference")
    return (one.identity, one.scene, one.caption) == (other.identity, other.scene, other.caption) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in pictures
    )


def sides(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.nonzero(mask)
    return slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)


def test_a_sample_depends_on_seed_index_and_split_alone() -> None:
    first = draw_sample(0, 3)
    draw_sample(7, 1)
    assert same(draw_sample(0, 3), first)
    assert not same(draw_sample(1, 3), first)
    assert not same(draw_sample(0, 4), first)
    assert not same(draw_sample(0, 3, held_out=True), first)


def test_the_same_generator_state_gives_the_same_bytes() -> None:
    first = render(TOY, "beach", np.random.default_rng(4))
    again, other = (render(TOY, "beach", np.random.default_rng(seed)) for seed in (4, 5))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    assert first.image.shape == (SIZE, SIZE, 3)
    assert first.image.dtype == first.mask.dtype == np.uint8


@pytest.mark.parametrize("draw", [draw_sample, draw_stylised, draw_pair])
def test_a_sample_is_the_same_at_another_size(draw: Callable[..., Sample | PairSample]) -> None:
    # of a pixel's 255; edges fall a little otherwise, and two styles depend on pixels
    near = {draw_sample: 4.0, draw_stylised: 25.0, draw_pair: 4.0}[draw]
    for index in range(6):
        large, small, other = draw(1, index, size=128), draw(1, index), draw(1, index + 1)
        assert large.target.shape == (128, 128, 3)
        assert large.mask.shape[-2:] == large.reference.shape[-3:-1] == (128, 128)
        assert small.target.shape == (SIZE, SIZE, 3)
        assert (large.caption, large.scene) == (small.caption, small.scene)

        def distance(sample: Sample | PairSample, shown: NDArray[np.uint8] = large.target) -> float:
            halved = np.asarray(Image.fromarray(shown).resize((SIZE, SIZE), Image.Resampling.BOX))
            return float(np.abs(halved.astype(float) - sample.target).mean())

        assert distance(small) < near
        assert distance(other) > 2 * distance(small)


def test_pixel_art_has_cells_of_four_pixels_at_every_size() -> None:
    for size in (SIZE, 128):
        picture = restyle(render(TOY, "city", np.random.default_rng(0), POSE, size).image[None], "pixelated")[
            0
        ]
        cells = picture.reshape(size // 4, 4, size // 4, 4, 3)
        assert (cells == cells[:, :1, :, :1]).all()
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > size


def test_a_scene_that_is_not_there_is_named() -> None:
    with pytest.raises(KeyError, match="moon"):
        render(TOY, "moon", np.random.default_rng(0))


def test_the_mask_is_the_toy_s_whatever_the_scene() -> None:
    masks = [render(TOY, scene, np.random.default_rng(0), POSE).mask for scene in SCENES]
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    assert masks[0].max() == 255
    assert 0.1 < (masks[0] == 255).mean() < 0.6
    turned = render(TOY, WHITE, np.random.default_rng(0), replace(POSE, yaw=-0.3)).mask
    assert not np.array_equal(turned, masks[0])


def test_no_background_shows_through_where_the_mask_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def night(canvas: Canvas, _rng: np.random.Generator, _horizon: float) -> None:
        canvas.pixels[:] = 0.0

    monkeypatch.setitem(SCENES, "night", replace(SCENES[WHITE], name="night", paint=night))
    light, dark = (render(TOY, scene, np.random.default_rng(0), POSE) for scene in (WHITE, "night"))
    full, none = light.mask == 255, light.mask == 0
    assert np.array_equal(light.image[full], dark.image[full])
    assert (light.image[none] == 255).all()
    assert (dark.image[none] == 0).all()
    # on the outline exactly the uncovered share of the background is added: 1 grey level of rounding each
    edge = ~full & ~none & (light.image < 255).all(-1)
    added = light.image[edge].astype(float) - dark.image[edge]
    assert edge.sum() > 20
    assert np.abs(added - (255 - light.mask[edge].astype(float))[:, None]).max() <= 2


def test_every_kind_with_every_pattern_renders_in_every_scene() -> None:
    rng = np.random.default_rng(0)
    colours = list(COLOURS)
    pictures = {}
    for kind, pattern, scene in itertools.product(KINDS, PATTERNS, SCENES):
        body, accent = rng.choice(colours, 2, replace=False)
        toy = Identity(kind, str(body), str(accent), pattern, *(int(v) for v in rng.integers(0, 3, 3)))
        with np.errstate(invalid="raise"):
            picture = render(toy, scene, rng, size=32)
        assert 0.08 < (picture.mask / 255).mean() < 0.6, toy.key
        pictures[kind, pattern, scene] = picture.image.tobytes()
    assert len(set(pictures.values())) == len(KINDS) * len(PATTERNS) * len(SCENES)


@pytest.mark.parametrize("kind", KINDS)
def test_both_colours_are_plain_to_see_on_every_variation(kind: str) -> None:
    for variation in itertools.product(range(3), repeat=3):
        toy = Identity(kind, "red", "blue", "plain", *variation)
        picture = render_reference(toy, np.random.default_rng(0))
        red, green, blue = picture.image[picture.mask == 255].astype(int).T
        body = ((red > blue + 40) & (red > green + 40)).mean()
        accent = ((blue > red + 40) & (blue > green + 40)).mean()
        assert body >= 0.3, toy.key
        assert accent >= 0.12, toy.key


def test_a_plain_toy_shows_more_of_its_body_colour_than_of_its_accent() -> None:
    shares = []
    for kind in KINDS:
        picture = render_reference(Identity(kind, "red", "blue", "plain", 1, 1, 1), np.random.default_rng(1))
        red, _, blue = picture.image[picture.mask == 255].astype(int).T
        shares.append(((red > blue + 40).mean(), (blue > red + 40).mean()))
    body, accent = np.mean(shares, axis=0)
    assert body > 1.2 * accent


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_and_part_variations_can_be_told_apart(kind: str) -> None:
    def seen(toy: Identity) -> NDArray[np.int64]:
        # at night, where white eyes show too
        return render(toy, "city", np.random.default_rng(0), POSE).image.astype(np.int64)

    plain = Identity(kind, "yellow", "blue", "plain", 0, 0, 0)
    patterned = [seen(replace(plain, pattern=pattern)) for pattern in PATTERNS]
    varied = [
        seen(toy) for toy in (plain, replace(plain, build=1), replace(plain, top=1), replace(plain, trim=1))
    ]
    for group in (patterned, varied):
        for one, other in itertools.combinations(group, 2):
            # of 4096 pixels
            assert (np.abs(one - other).max(-1) > 60).sum() >= 10


def test_references_stand_alone_on_white_and_fill_the_frame() -> None:
    for index in range(40):
        toy = draw_sample(3, index).identity
        reference = render_reference(toy, np.random.default_rng(index))
        assert (reference.image[reference.mask == 0] == 255).all()
        rows, columns = sides(reference.mask > 127)
        fill = max(rows.stop - rows.start, columns.stop - columns.start) / SIZE
        assert REFERENCE_FILL[0] - FILL_ERROR <= fill <= REFERENCE_FILL[1] + FILL_ERROR
        # centred, so nothing is cut off
        assert abs(rows.start + rows.stop - SIZE) <= 4
        assert abs(columns.start + columns.stop - SIZE) <= 4


def test_fitting_keeps_the_pose_and_moves_the_toy() -> None:
    fitted = fit_pose(TOY, POSE, 0.8)
    assert (fitted.yaw, fitted.pitch, fitted.roll, fitted.mirrored) == (
        POSE.yaw, POSE.pitch, POSE.roll, POSE.mirrored,
    )  # fmt: skip
    rows, columns = sides(render(TOY, WHITE, np.random.default_rng(0), fitted).mask > 127)
    assert max(rows.stop - rows.start, columns.stop - columns.start) / SIZE == pytest.approx(0.8, abs=0.04)


def test_a_reference_shows_another_pose_than_its_target() -> None:
    def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The toy's outline whatever its size and place."""
        crop = Image.fromarray(mask[sides(mask)].astype(np.uint8) * 255)
        return np.asarray(crop.resize((32, 32))) > 127

    overlaps = []
    for index in range(20):
        sample = draw_sample(2, index)
        one, other = outline(sample.mask > 127), outline(sample.reference.min(-1) < 250)
        overlaps.append((one & other).sum() / (one | other).sum())
    assert max(overlaps) < 1
    assert np.mean(overlaps) < 0.95
