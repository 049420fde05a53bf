"""A tiny bundle's decoder in strips: another function than its whole one, so that a test sees which of them ran."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import tiny_unet
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from tiny_bundle import edit_contract, seal

from dreamcache.runtime.bundle.contract import CONTRACT_NAME, Contract, GraphSpec, StripSpec, TensorSpec
from dreamcache.runtime.bundle.decoder_strips import StripKind, scale_of, strip_inputs, strip_outputs

_PLAN: tuple[tuple[StripKind, int, bool, bool], ...] = (
    ("upsample", 4, True, False),
    ("first_convolution", 6, True, True),
    ("second_convolution", 6, False, False),
    ("upsample", 6, True, False),
    ("first_convolution", 6, True, False),
    ("second_convolution", 6, True, False),
    ("output", 3, False, False),
)
"""Kind, channels of the result, whether a normalisation follows, whether the residual is convolved."""
_GROUPS = 2


def add_strips(folder: Path, rows: int = 4) -> None:
    """Write head and strips of `tiny_bundle.build`'s decoder; rows: of each window."""
    contract = Contract.model_validate_json((folder / CONTRACT_NAME).read_text())
    (height, width), random = contract.graphs.vae_decoder.inputs[0].shape[2:], np.random.default_rng(3)
    (latent,) = contract.graphs.vae_decoder.inputs
    features = TensorSpec(name="features", shape=latent.shape, dtype="float32")
    head = GraphSpec(file="vae_decoder/head.onnx", inputs=(latent,), outputs=(features,))
    mix = random.standard_normal((4, 4, 1, 1))
    _save(folder, head, [helper.make_node("Conv", [latent.name, "mix"], ["features"])], {"mix": mix})
    strips, channels, groups, residual = [], latent.shape[1], 0, 0
    for index, (kind, made, normed, shortcut) in enumerate(_PLAN):
        read = min(rows, height)
        strip = StripSpec(
            file=f"vae_decoder/strip_{index}.onnx",
            inputs=strip_inputs(kind, channels, read, width, groups, residual),
            outputs=strip_outputs(kind, made, read, width, _GROUPS if normed else None, shortcut),
            kind=kind,
        )
        weights = {"kernel": 0.4 * random.standard_normal((made, channels, 3, 3))}
        if shortcut:
            weights["beside"] = random.standard_normal((made, channels, 1, 1))
        _save(folder, strip, _nodes(strip), weights)
        strips.append(strip)
        channels, groups, residual = made, _GROUPS, made
        height, width = height * scale_of(kind), width * scale_of(kind)
    graphs = contract.model_dump(mode="json", by_alias=True)["graphs"]
    graphs |= {"vae_decoder_head": head.model_dump(mode="json")}
    graphs |= {"vae_decoder_strips": [strip.model_dump(mode="json") for strip in strips]}
    edit_contract(folder, graphs=graphs)
    seal(folder)


def _nodes(strip: StripSpec) -> list[onnx.NodeProto]:
    """See `decoder_strips.py`, of one kind."""
    (_, channels, rows, width), (_, made, out_rows, out_width) = (
        strip.inputs[0].shape,
        strip.outputs[0].shape,
    )
    grouped = [1, _GROUPS, channels // _GROUPS, rows, width]
    if strip.kind == "upsample":
        nodes = [helper.make_node("Resize", ["features", "", "twice"], ["wide"], mode="nearest")]
        nodes[0].attribute.extend(
            [
                helper.make_attribute("coordinate_transformation_mode", "asymmetric"),
                helper.make_attribute("nearest_mode", "floor"),
            ]
        )
        nodes.insert(0, _constant("twice", np.asarray([1, 1, 2, 2], np.float32)))
    else:
        nodes = [
            _constant("grouped", np.asarray(grouped)),
            _constant("plain", np.asarray([1, channels, rows, width])),
            _constant("each", np.asarray([1, _GROUPS, 1, 1, 1])),
            _constant("least", np.asarray(1e-5, np.float32)),
            helper.make_node("Split", ["statistics"], ["mean", "variance"], axis=0),
            helper.make_node("Reshape", ["mean", "each"], ["means"]),
            helper.make_node("Reshape", ["variance", "each"], ["variances"]),
            helper.make_node("Reshape", ["features", "grouped"], ["parts"]),
            helper.make_node("Sub", ["parts", "means"], ["centred"]),
            helper.make_node("Add", ["variances", "least"], ["above"]),
            helper.make_node("Sqrt", ["above"], ["deviation"]),
            helper.make_node("Div", ["centred", "deviation"], ["unit"]),
            helper.make_node("Reshape", ["unit", "plain"], ["normed"]),
            helper.make_node("Sigmoid", ["normed"], ["gate"]),
            helper.make_node("Mul", ["normed", "gate"], ["wide"]),
        ]
    added = strip.kind == "second_convolution"
    last = "convolved" if added else "result"
    nodes.append(helper.make_node("Conv", ["wide", "kernel"], [last], pads=[1, 1, 1, 1]))
    if added:
        nodes.append(helper.make_node("Add", ["convolved", "residual"], ["result"]))
    names = {output.name for output in strip.outputs}
    if "shortcut" in names:
        nodes.append(helper.make_node("Conv", ["features", "beside"], ["shortcut"]))
    if "sums" in names:
        nodes += [
            _constant("split", np.asarray([_GROUPS, made // _GROUPS, out_rows, out_width])),
            _constant("axes", np.asarray([1, 3])),
            _constant("front", np.asarray([0])),
            helper.make_node("Reshape", ["result", "split"], ["values"]),
            helper.make_node("Mul", ["values", "values"], ["squares"]),
            helper.make_node("ReduceSum", ["values", "axes"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["squares", "axes"], ["sum_of_squares"], keepdims=0),
            helper.make_node("Unsqueeze", ["sum", "front"], ["one"]),
            helper.make_node("Unsqueeze", ["sum_of_squares", "front"], ["two"]),
            helper.make_node("Concat", ["one", "two"], ["sums"], axis=0),
        ]
    return nodes


def _constant(name: str, value: NDArray[np.generic]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def _save(
    folder: Path, spec: GraphSpec, nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.float64]]
) -> None:
    stored = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    made = tiny_unet.graph(Path(spec.file).stem, nodes, spec.inputs, spec.outputs, stored)
    tiny_unet.save(folder / spec.file, made)
