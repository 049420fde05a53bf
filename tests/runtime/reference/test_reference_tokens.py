"""Which reference tokens a subject keeps, on masks that are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.bundle.architecture import (
    Architecture,
    SiteSpec,
    cache_tensors,
    caching_graph_outputs,
    denoiser_inputs,
    shallow_inputs,
)
from dreamcache.runtime.checks import verify_bundle
from dreamcache.runtime.errors import SubjectError
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.reference.prepare import prepare_reference
from dreamcache.runtime.reference.reference_tokens import (
    bayer_order,
    keep_tokens,
    kept_positions,
    mask_on_white,
)


def site(kept: int | None, rows: int = 8, columns: int = 8, name: str = "mid") -> SiteSpec:
    return SiteSpec(name=name, width=4, heads=2, token_height=rows, token_width=columns, kept_tokens=kept)


def square(side: int = 16, begin: int = 4, end: int = 12) -> NDArray[np.float32]:
    """A subject of (end - begin)² pixels in the picture's middle."""
    mask = np.zeros((side, side), np.float32)
    mask[begin:end, begin:end] = 1.0
    return mask


def cells(positions: NDArray[np.int64], columns: int = 8) -> list[tuple[int, int]]:
    return [(int(p) // columns, int(p) % columns) for p in positions]


def test_the_cells_of_the_subject_stay() -> None:
    inside = [(row, column) for row in range(2, 6) for column in range(2, 6)]
    assert cells(kept_positions(site(16), square())) == inside
    # Another subject, other tokens.
    assert cells(kept_positions(site(16), np.roll(square(), 4, axis=1))) == [(r, c + 2) for r, c in inside]


def test_more_subject_comes_before_less() -> None:
    mask = np.zeros((16, 16), np.float32)
    mask[0:2, 14:16] = 0.5  # cell (0, 7): half
    mask[14:16, 0:1] = 1.0  # cell (7, 0): half, by pixels
    mask[6:8, 6:8] = 0.6  # cell (3, 3)
    mask[8, 8] = 1.0  # cell (4, 4): a quarter
    assert cells(kept_positions(site(1), mask)) == [(3, 3)]
    assert cells(kept_positions(site(3), mask)) == [(0, 7), (3, 3), (7, 0)]
    assert (4, 4) in cells(kept_positions(site(4), mask))


def test_background_fills_up_and_a_large_subject_is_sampled_evenly() -> None:
    small = cells(kept_positions(site(24), square()))
    assert len(set(small)) == 24
    assert {(row, column) for row in range(2, 6) for column in range(2, 6)} < set(small)
    everything = kept_positions(site(32), np.ones((16, 16), np.float32))
    assert (np.diff(everything) > 0).all()
    blocks = [(row // 2, column // 2) for row, column in cells(everything)]
    assert {blocks.count(block) for block in blocks} == {2}
    # An order by position alone would keep the upper half of a subject that fills the picture.
    assert max(row for row, _ in cells(everything)) == 7
    assert kept_positions(site(1), np.zeros((16, 16), np.float32)).tolist() == [0]


def test_a_grid_that_does_not_divide_the_picture() -> None:
    # Three cells over four pixels: the middle column of cells takes two thirds of pixels 1 and 2.
    mask = np.zeros((4, 4), np.float32)
    mask[:, 1] = 1.0
    mask[:, 3] = 0.9
    wide = site(3, 3, 3)
    # Subject by columns, in pixels: 1/3; 2/3; 0.9.
    assert cells(kept_positions(wide, mask), 3) == [(0, 2), (1, 2), (2, 2)]
    mask[:, 3] = 0.6
    assert cells(kept_positions(wide, mask), 3) == [(0, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (4, 8), (1, 1), (6, 5)])
def test_an_order_has_every_cell_once(rows: int, columns: int) -> None:
    order = bayer_order(rows, columns)
    assert len(set(order.tolist())) == len(order) == rows * columns
    assert bayer_order(2, 2).tolist() == [0, 2, 3, 1]


def architecture(kept: int | None) -> Architecture:
    return Architecture(
        name="drawn",
        latent_channels=4,
        latent_height=8,
        latent_width=8,
        image_height=16,
        image_width=16,
        text_length=4,
        text_width=4,
        sites=(site(None, 2, 2, name="mid"), site(kept, name="up")),
    )


def test_keys_and_values_lose_the_same_rows() -> None:
    shape = architecture(16)
    random = np.random.default_rng(0)
    outputs = {
        spec.name: random.standard_normal(spec.shape).astype(np.float32)
        for spec in caching_graph_outputs(shape)
    }
    assert outputs["up.key"].shape == (1, 64, 4)
    kept = keep_tokens(outputs, square(), shape)
    assert {name: array.shape for name, array in kept.items()} == {
        spec.name: spec.shape for spec in cache_tensors(shape)
    }
    grid = outputs["up.value"].reshape(8, 8, 4)
    np.testing.assert_array_equal(kept["up.value"][0], grid[2:6, 2:6].reshape(16, 4))
    np.testing.assert_array_equal(
        kept["up.key"][0], outputs["up.key"].reshape(8, 8, 4)[2:6, 2:6].reshape(16, 4)
    )
    # All tokens of a site without a number are its very own, and so is everything where no site has one.
    assert kept["mid.key"] is outputs["mid.key"]
    untouched = keep_tokens(outputs, square(), architecture(None))
    assert all(untouched[name] is outputs[name] for name in outputs)


def test_the_contract_declares_both_sizes() -> None:
    shape = architecture(16)
    taken = {spec.name: spec.shape for spec in denoiser_inputs(shape)}
    assert taken["up.key"] == taken["up.value"] == (1, 16, 4)
    assert taken["mid.key"] == (1, 4, 4)
    assert cache_tensors(architecture(None)) == caching_graph_outputs(architecture(None))
    with pytest.raises(ValueError, match="at most 64 kept tokens are expected, received 65"):
        site(65)
    with pytest.raises(ValueError, match="no deep features"):
        shallow_inputs(shape)


def test_the_subject_of_a_picture_on_white() -> None:
    picture = np.ones((1, 3, 16, 16), np.float32)
    assert mask_on_white(picture).max() == 0.0
    picture[0, :, 4:12, 4:12] = -0.5
    picture[0, :, 7:9, 7:9] = 1.0  # white inside the subject belongs to it
    np.testing.assert_array_equal(mask_on_white(picture), square())
    picture[0, :, :, :8] = 0.0
    assert mask_on_white(picture).min() == 1.0


def test_the_runner_keeps_them(bundles: dict[str, Pipeline], tall_toy: Image.Image, tmp_path: Path) -> None:
    half, exact = bundles["half"], bundles["exact"]
    subject, whole = half.cache(tall_toy), exact.cache(tall_toy)
    tapped = half.contract.architecture.sites[1]
    positions = kept_positions(tapped, prepare_reference(tall_toy, size=16).mask)
    # A toy higher than wide: the two middle columns of four.
    assert positions.tolist() == [1, 2, 5, 6, 9, 10, 13, 14]
    for name in (tapped.key_name, tapped.value_name):
        np.testing.assert_array_equal(subject.tensors[name], whole.tensors[name][:, positions])
    again = half.load_subject(subject.save(tmp_path / "toy.subject.safetensors"))
    pictures = [
        np.asarray(half.generate("a robot", again, steps=2, seed=1, strength=strength), int)
        for strength in (1.0, 0.0)
    ]
    assert np.abs(pictures[0] - pictures[1]).max() > 1
    assert half.generate("a robot", again, steps=2, seed=1, step_cache=2).size == (16, 16)
    assert [check.name for check in verify_bundle(half.bundle.folder) if not check.passed] == []


def test_a_subject_of_another_size_is_refused(bundles: dict[str, Pipeline], tall_toy: Image.Image) -> None:
    half, whole = bundles["half"], bundles["exact"].cache(tall_toy)
    with pytest.raises(SubjectError, match="belongs to another bundle"):
        half.denoise("a robot", whole)
    forged = replace(whole, fingerprint=half.contract.fingerprints.subject())
    with pytest.raises(SubjectError, match=r"\[1, 8, 4\] float32 is expected, received \[1, 16, 4\]"):
        half.denoise("a robot", forged)


@pytest.fixture
def tall_toy() -> Image.Image:
    pixels = np.full((32, 32, 3), 255, np.uint8)
    pixels[4:28, 10:22] = 40
    return Image.fromarray(pixels)


@pytest.fixture
def bundles(tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Pipeline]:
    """The tiny bundle, and another whose second site takes 8 of its 16 tokens."""
    exact = Pipeline.load(tiny.build(tmp_path / "exact"))
    shape, weights = exact.contract.architecture, tiny._weights
    fewer = shape.sites[1].model_copy(update={"kept_tokens": 8})
    fewer_tokens = shape.model_copy(update={"sites": (shape.sites[0], fewer)})

    def first_half(random: np.random.Generator, vocabulary: int) -> dict[str, NDArray[np.float32]]:
        made: dict[str, NDArray[np.float32]] = weights(random, vocabulary)
        made[f"{fewer.name}.to_out"] = np.ascontiguousarray(made[f"{fewer.name}.to_out"][:32])
        return made

    monkeypatch.setattr(tiny, "_weights", first_half)
    monkeypatch.setattr(tiny, "architecture", lambda *_: fewer_tokens)
    return {"exact": exact, "half": Pipeline.load(tiny.build(tmp_path / "half"))}
