"""Layers in 8 bits against the same layers in float.

Where every value is a whole number and every scale 1, 8 bits lose nothing, and results must be equal to the bit: what
is left to test is the geometry. Elsewhere the error is bounded by the steps of the scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_layers import Layers, operators, run

from dreamcache.export.int8.calibration import Range, input_of, output_of
from dreamcache.export.int8.layers import EMBEDDING_VALUES, find_layers, group_layers, weight_of
from dreamcache.export.int8.rewrite import Format, quantise
from dreamcache.export.int8.weights import QuantisedWeight, quantise_weight
from dreamcache.runtime.bundle.parity import psnr_db

Array = NDArray[np.float32]

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "same": {"pads": [1, 1, 1, 1]},
    "downsample": {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    "asymmetric": {"pads": [0, 2, 1, 0], "strides": [2, 1]},
    "valid": {},
}
WHOLE = Range(-100.0, 155.0)
"""Whole numbers are its codes: its scale is 1."""


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole_numbers(*shape: int) -> Array:
    """From -100 to 155, both ends taken."""
    values = np.random.default_rng(0).integers(-100, 156, shape).astype(np.float32)
    values.flat[0], values.flat[-1] = -100, 155
    return values


def one_tap_each() -> Array:
    """[27, 3, 3, 3]: 127 at another tap in each channel, and -1 to 1 elsewhere.

    Pairs of products then stay within 16 bits, in which kernels of older processors add them.
    """
    weight = np.random.default_rng(1).integers(-1, 2, (27, 27)).astype(np.float32)
    np.fill_diagonal(weight, 127)
    return weight.reshape(27, 3, 3, 3)


def convolution(weight: Array, bias: Array, attributes: dict[str, Any]) -> tuple[ir.Model, tuple[int, ...]]:
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    out = tuple((size + pads[i] + pads[i + 2] - 3) // strides[i] + 1 for i, size in enumerate((9, 7)))
    build = Layers(x=(2, 3, 9, 7))
    y = build("Conv", "unet.block.conv", build.inputs["x"], weight, bias, **attributes)
    shape = (2, len(weight), *out)
    return build.model(y=(y, shape)), shape


def in_8_bits(
    model: ir.Model, how: Format, *ranges: Range, weights: Any = None, pad_first: bool = False
) -> ir.Model:
    layers = find_layers(model)
    nodes = {node.name: node for node in model.graph}
    found = {name: quantise_weight(layer, weight_of(nodes[name])) for name, layer in layers.items()}
    places = [place(name) for name in layers for place in (input_of, output_of)]
    by_place = dict(zip(places, ranges, strict=False))
    return quantise(model, dict.fromkeys(layers, how), weights or found, by_place, pad_first=pad_first)


def in_3_bits(model: ir.Model) -> dict[str, QuantisedWeight]:
    """Of a convolution: scales 127/3 times as wide."""
    (layer,) = find_layers(model).values()
    (node,) = model.graph
    exact = quantise_weight(layer, weight_of(node))
    coarse = np.round(exact.codes * (3 / 127)).astype(np.int8)
    return {layer.name: QuantisedWeight(coarse, (exact.scales * (127 / 3)).astype(np.float32))}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_an_unfolded_convolution_covers_what_the_convolution_does(kind: str) -> None:
    bias = np.arange(27, dtype=np.float32)
    model, shape = convolution(one_tap_each(), bias, CONVOLUTIONS[kind])
    picture = whole_numbers(2, 3, 9, 7)
    unfolded = in_8_bits(model, "dynamic")
    assert "Conv" not in operators(unfolded)
    received = run(unfolded, x=picture)
    assert received.shape == shape
    np.testing.assert_array_equal(received, run(model, x=picture))
    turned = CONVOLUTIONS[kind] | {"pads": [2, 0, 0, 1]}
    if kind == "asymmetric":
        other, _ = convolution(one_tap_each(), bias, turned)
        assert np.abs(run(other, x=picture)[:, :, :4, :5] - received[:, :, :4, :5]).max() > 100


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_padding_before_8_bits_is_the_same_and_right_in_openvino(kind: str) -> None:
    openvino = pytest.importorskip("openvino")
    model, _ = convolution(normal(16, 3, 3, 3), normal(16, seed=1), CONVOLUTIONS[kind])
    picture = normal(2, 3, 9, 7, seed=2)
    expected, first = run(model, x=picture), in_8_bits(model, "dynamic", pad_first=True)
    np.testing.assert_array_equal(run(first, x=picture), run(in_8_bits(model, "dynamic"), x=picture))
    core = openvino.Core()

    def in_openvino(changed: ir.Model) -> Array:
        content = ir.serde.serialize_model(changed).SerializeToString()
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        return np.array(core.compile_model(core.read_model(content), "CPU", settings)({"x": picture})[0])

    assert psnr_db(expected, in_openvino(first)) > 42
    misplaced = in_openvino(in_8_bits(model, "dynamic", pad_first=True))[:, ::-1]
    assert psnr_db(expected, misplaced) < 20


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_static_convolution_rounds_its_output_alone(kind: str) -> None:
    bias = np.arange(27, dtype=np.float32)
    model, _ = convolution(one_tap_each(), bias, CONVOLUTIONS[kind])
    picture = whole_numbers(2, 3, 9, 7)
    expected = run(model, x=picture)
    outside = Range(float(expected.min()), float(expected.max()))
    received = run(in_8_bits(model, "static", WHOLE, outside), x=picture)
    # Half a step, and another half where the zero point was rounded.
    assert np.abs(received - expected).max() <= 1.01 * float(outside.scale)
    swapped = run(in_8_bits(model, "static", outside, WHOLE), x=picture)
    assert np.abs(swapped - expected).max() > 50 * float(outside.scale)


@pytest.mark.parametrize(("how", "least_db"), [("dynamic", 42.0), ("static", 39.0)])
def test_real_weights(how: Format, least_db: float) -> None:
    model, _ = convolution(normal(16, 3, 3, 3), normal(16, seed=1), CONVOLUTIONS["downsample"])
    picture = normal(2, 3, 9, 7, seed=2)
    expected = run(model, x=picture)
    ranges = [Range(float(array.min()), float(array.max())) for array in (picture, expected)]
    assert psnr_db(expected, run(in_8_bits(model, how, *ranges), x=picture)) > least_db
    coarse = in_8_bits(model, how, *ranges, weights=in_3_bits(model))
    assert psnr_db(expected, run(coarse, x=picture)) < 30


def test_no_two_convolutions_share_a_zero_point() -> None:
    """ONNX Runtime cannot open a graph in which they do where it turns weights unsigned."""
    build = Layers(x=(1, 4, 6, 6))
    y = build.inputs["x"]
    for name in ("unet.first.conv", "unet.second.conv"):
        y = build("Conv", name, y, 0.3 * normal(4, 4, 3, 3), normal(4), pads=[1] * 4)
    model = build.model(y=(y, (1, 4, 6, 6)))
    changed = in_8_bits(model, "static", *[Range(-8.0, 8.0)] * 4)
    of_weights = [n for n in changed.graph if n.op_type == "DequantizeLinear" and _is_weight(n.inputs[0])]
    assert len(of_weights) == 2
    assert len({n.inputs[2] for n in of_weights}) == 2
    picture = normal(1, 4, 6, 6, seed=2)
    assert psnr_db(run(model, x=picture), run(changed, x=picture)) > 20


def _is_weight(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and len(value.const_value.shape) == 4


def test_a_channel_without_weights_keeps_its_bias() -> None:
    weight, bias = normal(4, 3, 3, 3), np.array([0.5, -3.0, 0.0, 2.0], np.float32)
    weight[0], weight[1] = 0.0, weight[1] * 1e-9
    model, _ = convolution(weight, bias, {})
    picture = normal(2, 3, 9, 7, seed=2)
    expected = run(model, x=picture)
    ranges = [Range(float(array.min()), float(array.max())) for array in (picture, expected)]
    received = run(in_8_bits(model, "static", *ranges), x=picture)
    # The bounds of the other channels: their weights' rounding, and a step of the output's range.
    error = np.abs(received - expected).max(axis=(0, 2, 3))
    assert error[:2].max() <= 1.01 * float(ranges[1].scale)
    assert error.max() < 0.2
    assert np.abs(expected[:, 1]).min() > 1.0


def two_products() -> ir.Model:
    """Of one activation [1, 5, 24], added up."""
    build = Layers(x=(1, 5, 24))
    key = build("MatMul", "block.to_k", build.inputs["x"], normal(24, 24))
    value = build("MatMul", "block.to_v", build.inputs["x"], normal(24, 24, seed=1))
    return build.model(y=(build("Add", "sum", key, value), (1, 5, 24)))


def test_products_quantise_an_activation_once() -> None:
    model = two_products()
    changed = in_8_bits(model, "dynamic")
    assert operators(changed).count("DynamicQuantizeLinear") == 1
    assert operators(changed).count("MatMulInteger") == 2
    tokens = normal(1, 5, 24, seed=2)
    assert psnr_db(run(model, x=tokens), run(changed, x=tokens)) > 42
    assert psnr_db(run(model, x=tokens), run(changed, x=-tokens)) < 10


def gemm(transposed: int) -> tuple[ir.Model, Array, Array]:
    """A product of [4, 27] with its weight and bias."""
    weight, bias = one_tap_each().reshape(27, 27), 10 * np.arange(27, dtype=np.float32)
    build = Layers(x=(4, 27))
    y = build("Gemm", "block.proj", build.inputs["x"], weight, bias, transB=transposed)
    return build.model(y=(y, (4, 27))), weight, bias


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_keeps_its_bias_and_its_side(transposed: int) -> None:
    model, weight, bias = gemm(transposed)
    assert find_layers(model)["block.proj"].transposed == bool(transposed)
    rows = whole_numbers(4, 27)
    expected = run(model, x=rows)
    if transposed:
        # A scale for each row of the stored weight, whose largest is 127: nothing is lost.
        np.testing.assert_array_equal(run(in_8_bits(model, "dynamic"), x=rows), expected)
    assert psnr_db(expected, run(in_8_bits(model, "dynamic"), x=rows)) > 60
    flipped = rows @ (weight if transposed else weight.T) + bias
    assert psnr_db(expected, flipped) < 40


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_static_product_rounds_its_input_and_weight_alone(transposed: int) -> None:
    model, _, _ = gemm(transposed)
    rows = whole_numbers(4, 27)
    expected, changed = run(model, x=rows), in_8_bits(model, "static", WHOLE)
    assert not {"DynamicQuantizeLinear", "MatMulInteger", "Gemm"} & set(operators(changed))
    if transposed:
        np.testing.assert_array_equal(run(changed, x=rows), expected)
    assert psnr_db(expected, run(changed, x=rows)) > 60
    narrow = Range(WHOLE.low / 4, WHOLE.high / 4)
    assert psnr_db(expected, run(in_8_bits(model, "static", narrow), x=rows)) < 20


def test_static_products_quantise_an_activation_once() -> None:
    model = two_products()
    wide, tokens = Range(-4.0, 4.0), normal(1, 5, 24, seed=2)
    changed = in_8_bits(model, "static", wide, wide, wide)
    assert operators(changed).count("QuantizeLinear") == 1
    assert operators(changed).count("MatMul") == 2
    assert psnr_db(run(model, x=tokens), run(changed, x=tokens)) > 38


def test_an_embedding_is_off_by_half_a_step_of_its_row() -> None:
    table = normal(1024, 1024)
    table[7] *= 100
    build = Layers(ids=(1, 3))
    model = build.model(y=(build("Gather", "token_embedding", table, build.inputs["ids"]), (1, 3, 1024)))
    ids = np.array([[7, 0, 1023]])
    received = run(in_8_bits(model, "static"), ids=ids)
    step = np.abs(table[ids]).max(axis=2, keepdims=True) / 127
    assert (np.abs(received - table[ids]) <= 0.501 * step).all()
    assert (np.abs(received - table[[[7, 1, 1022]]]).max(axis=2) > step[..., 0])[0, 1:].all()
    small = Layers(ids=(1, 3))
    y = small("Gather", "position", table[:, : EMBEDDING_VALUES // 1024 - 1], small.inputs["ids"])
    assert find_layers(small.model(y=(y, (1, 3, 1023)))) == {}


def test_what_is_kept_and_how_layers_are_grouped() -> None:
    square = normal(8, 8)
    build = Layers(x=(1, 8, 4, 4), tokens=(1, 8))
    x, tokens = build.inputs["x"], build.inputs["tokens"]
    for name in ("unet.conv_in", "unet.down_blocks.0.resnets.1.conv1", "unet.conv_out"):
        x = build("Conv", name, x, normal(8, 8, 3, 3), pads=[1] * 4)
    attention = "unet.down_blocks.0.attentions.1.transformer_blocks.0.attn1"
    names = ("unet.time_embedding.linear_1", f"{attention}.to_q", f"{attention}.to_k")
    for name in (*names, "unet.down_blocks.0.resnets.1.conv_shortcut"):
        tokens = build("MatMul", name, tokens, square)
    # Attention multiplies activations: no constant, no layer.
    tokens = build("MatMul", "scores", tokens, build("Transpose", "turned", tokens, perm=[1, 0]))
    layers = find_layers(build.model(y=(x, (1, 8, 4, 4)), z=(tokens, (1, 1))))
    assert {name.removeprefix("unet.down_blocks.0.") for name in layers} == {
        "resnets.1.conv1",
        *(f"attentions.1.transformer_blocks.0.attn1.{place}" for place in ("to_q", "to_k")),
        "resnets.1.conv_shortcut",
    }
    assert {group: len(names) for group, names in group_layers(layers, fine=True).items()} == {
        "unet.down_blocks.0.resnets.1.conv1": 1,
        "down_blocks.0.attentions.1, products": 2,
        "unet.down_blocks.0.resnets.1.conv_shortcut": 1,
    }
    assert {group: len(names) for group, names in group_layers(layers, fine=False).items()} == {
        "down_blocks.0, convolutions": 1,
        "down, products": 3,
    }


@pytest.mark.parametrize("read_twice", [False, True])
def test_a_relu_is_the_lower_end_of_a_convolutions_codes(read_twice: bool) -> None:
    build = Layers(x=(1, 3, 9, 7))
    weights = normal(8, 3, 3, 3, seed=1), normal(5, 8, 3, 3, seed=2)
    first = build("Conv", "first.conv", build.inputs["x"], weights[0], normal(8), pads=[1] * 4)
    positive = build("Relu", "relu", first)
    second = build("Conv", "second.conv", positive, weights[1], normal(5), pads=[1] * 4)
    outputs = {"y": (second, (1, 5, 9, 7))} | ({"other": (first, (1, 8, 9, 7))} if read_twice else {})
    model = build.model(**outputs)
    wide, within = Range(-20.0, 20.0), Range(0.0, 20.0)
    rounded = in_8_bits(model, "static", Range(-4.0, 4.0), wide, within, Range(-60.0, 60.0))
    found = operators(rounded)
    assert found.count("Relu") == read_twice
    assert found.count("QuantizeLinear") == (4 if read_twice else 3)
    x = normal(1, 3, 9, 7, seed=3)
    assert psnr_db(run(model, x=x), run(rounded, x=x)) > 30
