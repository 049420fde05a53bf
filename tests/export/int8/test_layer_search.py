"""The choice of layers, on a network so small that every choice can be tried.

A picture is the sum of what eight layers make of one input, each with its own share. A layer's error in 8 bits is that
of real codes: its weight rounded to 8 bits (dynamic), and its result too, to 9 levels (static).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from dreamcache.export.errors import ExportError
from dreamcache.export.int8.layer_search import (
    CONDITION_MARGIN,
    LATENT_MARGIN_DB,
    Formats,
    LayerChoice,
    choose_layers,
    fewest,
    margin_db,
    passes,
)
from dreamcache.export.int8.layers import Layer
from dreamcache.export.int8.portable_form import PortableChoice, choose_portable
from dreamcache.export.int8.trajectories import Score, TrajectoryRecord, compare
from dreamcache.export.int8.weights import quantise_weight
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE, MIN_INT8_LATENT_DB, psnr_db

STATIC_LEVELS = 4
"""Above and below 0."""
LEAST_DB = MIN_INT8_LATENT_DB + LATENT_MARGIN_DB


@dataclass
class SmallNetwork:
    """A judge: draws with layers in 8 bits, and counts how often.

    Attributes:
        shares: of each layer in the picture; by how much its error counts.
        bits: levels of a dynamic layer's weight.
    """

    shares: dict[str, float]
    bits: int = 8
    drawn: list[Formats] = field(default_factory=list)

    def score(self, formats: Formats) -> Score:
        self.drawn.append(formats)
        exact, found = self._picture({}), self._picture(formats)
        effects = [float(np.linalg.norm(picture)) for picture in (exact, found)]
        ratio = effects[1] / effects[0]
        return Score((psnr_db(exact, found),), ratio, 1.0)

    def _picture(self, formats: Formats) -> np.ndarray:
        random = np.random.default_rng(0)
        activation = random.standard_normal(64).astype(np.float32)
        picture = np.zeros(64, np.float32)
        for name, share in self.shares.items():
            weight = random.standard_normal((64, 64)).astype(np.float32)
            if name in formats:
                weight = _rounded(weight, self.bits)
            result = weight @ activation / 8
            if formats.get(name) == "static":
                step = np.abs(result).max() / STATIC_LEVELS
                result = np.round(result / step) * step
            picture += np.float32(share) * result
        return picture


def _rounded(weight: np.ndarray, bits: int) -> np.ndarray:
    codes = quantise_weight(Layer("w", "product", transposed=True), weight)
    coarse = 2 ** (8 - bits)
    return (np.round(codes.codes / coarse) * coarse * codes.scales).T.astype(np.float32)


def layers(shares: dict[str, float]) -> dict[str, Layer]:
    """Names that begin with "mid" are products."""
    return {name: Layer(name, "product" if name.startswith("mid") else "convolution") for name in shares}


def chosen(network: SmallNetwork) -> LayerChoice:
    return choose_layers(network, layers(network.shares), True, lambda *_: None)  # type: ignore[arg-type]


EQUAL = {f"down_blocks.{i}.resnets.0.conv1": 1.0 for i in range(6)}
MIXED = {"mid_block.a": 1.0, "mid_block.b": 1.0, **{name: 2.0**i for i, name in enumerate(EQUAL)}}
"""Half of the picture comes from the last convolution, half of the rest from the one before."""
LAST = list(EQUAL)[-1]


def test_everything_static_where_that_passes() -> None:
    # One share is next to nothing, so its static errors are.
    network = SmallNetwork({"mid_block.a": 1.0, **{name: 1e-3 for name in EQUAL}})
    choice = chosen(network)
    assert choice.kept == ()
    assert [choice.formats[name] for name in EQUAL] == ["static"] * 6
    assert choice.formats["mid_block.a"] == "dynamic"
    assert choice.score.final_db >= LEAST_DB
    assert set(choice.sensitivity_db) == {*EQUAL, "mid_block, products"}


def test_the_fewest_convolutions_are_dynamic() -> None:
    network = SmallNetwork(MIXED)
    choice = chosen(network)
    alone = {name: network.score({name: "static"}) for name in EQUAL}
    order = sorted(EQUAL, key=lambda name: margin_db(alone[name]))

    def score(dynamic: int) -> Score:
        formats: Formats = dict.fromkeys(MIXED, "dynamic")
        return network.score({**formats, **dict.fromkeys(order[dynamic:], "static")})

    count = sum(choice.formats[name] == "dynamic" for name in EQUAL)
    # Neither none nor all, or the test would show nothing.
    assert 0 < count < 6
    assert {name for name in EQUAL if choice.formats[name] == "dynamic"} == set(order[:count])
    assert passes(score(count))
    assert not passes(score(count - 1))
    assert choice.score == score(count)


def test_the_fewest_layers_stay_where_8_bits_are_too_few() -> None:
    network = SmallNetwork(MIXED, bits=4)
    assert not passes(network.score(dict.fromkeys(MIXED, "dynamic")))
    choice = chosen(network)
    assert choice.kept[0] == LAST
    assert set(choice.formats) == set(MIXED) - set(choice.kept) != set()
    assert passes(choice.score)
    assert choice.score == network.score(choice.formats)
    fewer: Formats = dict.fromkeys([*choice.formats, choice.kept[-1]], "dynamic")
    assert not passes(network.score(fewer))


def test_nothing_is_called_8_bits_that_is_not() -> None:
    with pytest.raises(ExportError, match=r"no choice of layers .* use --precision fp32"):
        chosen(SmallNetwork(EQUAL, bits=2))


@pytest.mark.parametrize("needed", range(8))
def test_the_least_count_is_found_in_few_steps(needed: int) -> None:
    asked: list[int] = []

    def score(count: int) -> Score:
        asked.append(count)
        return Score((LEAST_DB + count - needed,), 1.0, 1.0)

    assert fewest(7, score) == (needed, Score((LEAST_DB,), 1.0, 1.0))
    assert len(asked) <= 7
    assert len(set(asked)) == len(asked)
    with pytest.raises(ExportError, match=r"final latent is 31\.0 dB"):
        fewest(needed, lambda _: Score((31.0,), 1.0, 1.0))


def portable(network: SmallNetwork, judged: bool = True) -> tuple[LayerChoice, PortableChoice]:
    choice = chosen(network)
    judge = network if judged else None
    return choice, choose_portable(judge, choice, layers(network.shares), True, lambda *_: None)  # type: ignore[arg-type]


def test_the_portable_form_has_fixed_ranges_where_they_pass() -> None:
    network = SmallNetwork({"mid_block.attentions.0.a": 1e-3, "mid_block.attentions.1.b": 1e-3, LAST: 1.0})
    choice, found = portable(network)
    assert {choice.formats[name] for name in network.shares} == {"dynamic"}
    assert found.kept == ()
    assert found.formats == choice.formats | dict.fromkeys(list(network.shares)[:2], "static")
    assert found.score == network.score(found.formats)
    assert "groups with ranges of each call: none" in found.note()


def test_the_fewest_products_of_the_portable_form_keep_ranges_of_each_call() -> None:
    large, small = "mid_block.attentions.0.a", "mid_block.attentions.1.b"
    network = SmallNetwork({large: 1.0, small: 1e-3, LAST: 1.0})
    choice, found = portable(network)
    assert not passes(network.score(choice.formats | {large: "static"}))
    assert found.kept == ("mid_block.attentions.0, products",)
    assert found.formats == choice.formats | {small: "static"}
    assert passes(found.score)
    assert f"{found.score.final_db:.1f} dB" in found.note()
    _, unjudged = portable(network, judged=False)
    assert unjudged.formats == choice.formats | {large: "static", small: "static"}
    assert unjudged.note() == "products of the portable form have fixed ranges"


def test_margins() -> None:
    edge = CONDITION_MARGIN * CONDITION_TOLERANCE
    assert passes(Score((10.0, LEAST_DB), 1 + 0.99 * edge, 1 - 0.99 * edge))
    assert not passes(Score((40.0, LEAST_DB - 0.1), 1.0, 1.0))
    assert not passes(Score((40.0,), 1.0, 1 - 1.01 * edge))
    assert not passes(Score((40.0,), 1 + 1.01 * edge, 1.0))
    assert margin_db(Score((50.0,), 1.01, 1.0)) == pytest.approx(40.0)
    assert margin_db(Score((35.0,), 1.01, 1.0)) == 35.0


def test_trajectories_are_compared_over_all_of_them() -> None:
    one, two = np.ones((1, 1, 2, 2), np.float32), np.full((1, 1, 2, 2), 2.0, np.float32)
    exact = [TrajectoryRecord((one, one), 2.0, 4.0), TrajectoryRecord((two, two), 6.0, 4.0)]
    off = [TrajectoryRecord((one, one + 0.2), 2.2, 4.0), TrajectoryRecord((two, two), 5.8, 4.4)]
    score = compare(exact, off)
    # The peak is 2, the mean square of 0.2 in half of the values 0.02.
    assert score.latent_db == pytest.approx((200.0, 20 * np.log10(2 / np.sqrt(0.02))), abs=1e-4)
    assert score.final_db == score.latent_db[-1]
    assert (score.reference_ratio, score.text_ratio) == pytest.approx((1.0, 1.05))
    assert score.condition_error == pytest.approx(0.05)
    worse = compare(exact, [off[0], TrajectoryRecord((two, two + 2.0), 5.8, 4.4)])
    assert worse.final_db < 5
    with pytest.raises(ValueError, match="zip"):
        compare(exact, off[:1])
