"""The UNet's graphs of the tiny bundle: caching graph, denoiser, the stock model and the shallow graph.

    summed = latent·W + text·Wt + t·w          deep = (summed + s·Δ_mid)·D
    prediction = tanh(summed + deep·E) + s·Δ_up,  with Δ = (keys · values)·Wo for each site

So the shallow graph gives the denoiser's own prediction when it is given the deep features of the same inputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dreamcache.runtime.bundle.architecture import (
    caching_graph_inputs,
    denoiser_inputs,
    denoiser_outputs,
    plain_inputs,
    plain_outputs,
    shallow_inputs,
)
from dreamcache.runtime.bundle.contract import Architecture, GraphSpec, SiteSpec, TensorSpec, cache_tensors

Weights = dict[str, NDArray[np.float32]]

_ELEMENT = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_WEIGHTS = "unet/weights.data"


def write_unet(folder: Path, shape: Architecture, weights: Weights) -> dict[str, GraphSpec]:
    """All graphs, with one copy of every tensor in `weights.data`."""
    stored: dict[str, TensorProto] = {}
    with (folder / "weights.data").open("wb") as data:
        for name, array in weights.items():
            stored[name] = _external(name, array, data.tell())
            data.write(array.tobytes())
    graphs = {
        "cache": ("cache", caching_graph_inputs(shape), cache_tensors(shape)),
        "denoiser": ("model", denoiser_inputs(shape), denoiser_outputs(shape)),
    }
    if shape.deep is not None:
        graphs["plain"] = ("plain", plain_inputs(shape), plain_outputs(shape))
        graphs["shallow"] = ("shallow", shallow_inputs(shape), plain_outputs(shape))
    specs = {}
    for name, (file, inputs, outputs) in graphs.items():
        made = (
            _caching_graph(shape, stored)
            if name == "cache"
            else _denoiser(shape, stored, name, inputs, outputs)
        )
        save(folder / f"{file}.onnx", made)
        specs[name] = GraphSpec(file=f"unet/{file}.onnx", weights=(_WEIGHTS,), inputs=inputs, outputs=outputs)
    return specs


def _external(name: str, array: NDArray[np.float32], offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.data"), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _caching_graph(shape: Architecture, stored: dict[str, TensorProto]) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Reshape", ["latent", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "shared"], ["mixed"]),
    ]
    constants = {"flat_shape": [1, 64]}
    names = ["shared"]
    for site in shape.sites:
        constants[f"{site.name}.shape"] = [1, site.tokens, 64 // site.tokens]
        nodes.append(helper.make_node("Reshape", ["mixed", f"{site.name}.shape"], [f"{site.name}.tokens"]))
        for kind, output in (("to_k", site.key_name), ("to_v", site.value_name)):
            nodes.append(helper.make_node("MatMul", [f"{site.name}.tokens", f"{site.name}.{kind}"], [output]))
            names.append(f"{site.name}.{kind}")
    initializers = [stored[name] for name in names] + shapes(constants)
    return graph("cache", nodes, caching_graph_inputs(shape), cache_tensors(shape), initializers)


def _denoiser(
    shape: Architecture,
    stored: dict[str, TensorProto],
    name: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> onnx.GraphProto:
    """The denoiser, the stock model ("plain": no site) or the shallow graph ("shallow": deep features given)."""
    b, text = shape.batch, shape.text_chunks * shape.text_length * shape.text_width
    middle, upper = shape.sites
    constants = {
        "flat_shape": [b, 64],
        "text_shape": [b, text],
        "column": [b, 1],
        "latent_shape": [b, 4, 4, 4],
    }
    used = ["shared", "text_to_out", "time_to_out", "from_deep"]
    nodes = [
        helper.make_node("Reshape", ["latent", "flat_shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "shared"], ["from_latent"]),
        helper.make_node("Reshape", ["text", "text_shape"], ["flat_text"]),
        helper.make_node("MatMul", ["flat_text", "text_to_out"], ["from_text"]),
        helper.make_node("Reshape", ["timestep", "column"], ["time"]),
        helper.make_node("MatMul", ["time", "time_to_out"], ["from_time"]),
        helper.make_node("Sum", ["from_latent", "from_text", "from_time"], ["summed"]),
    ]
    if name != "plain":
        nodes.append(helper.make_node("Reshape", ["reference_strength", "column"], ["strength"]))
    flat_deep = "flat_deep"
    if name == "shallow":
        constants["deep_flat_shape"] = [b, 32]
        nodes.append(helper.make_node("Reshape", ["deep", "deep_flat_shape"], [flat_deep]))
    else:
        inner = "summed"
        if name == "denoiser":
            nodes += [
                *_delta(middle, constants),
                helper.make_node("Add", ["summed", f"{middle.name}.scaled"], ["inner"]),
            ]
            used.append(f"{middle.name}.to_out")
            inner = "inner"
        used.append("to_deep")
        nodes.append(helper.make_node("MatMul", [inner, "to_deep"], [flat_deep]))
        if len(outputs) > 1:
            constants["deep_shape"] = list(outputs[1].shape)
            nodes.append(helper.make_node("Reshape", [flat_deep, "deep_shape"], ["deep"]))
    nodes += [
        helper.make_node("MatMul", [flat_deep, "from_deep"], ["outer"]),
        helper.make_node("Add", ["summed", "outer"], ["both"]),
        helper.make_node("Tanh", ["both"], ["stock"]),
    ]
    result = "stock"
    if name != "plain":
        nodes += [
            *_delta(upper, constants),
            helper.make_node("Add", ["stock", f"{upper.name}.scaled"], ["conditioned"]),
        ]
        used.append(f"{upper.name}.to_out")
        result = "conditioned"
    nodes.append(helper.make_node("Reshape", [result, "latent_shape"], ["prediction"]))
    return graph(name, nodes, inputs, outputs, [stored[key] for key in used] + shapes(constants))


def _delta(site: SiteSpec, constants: dict[str, list[int]]) -> list[onnx.NodeProto]:
    """s·(keys · values)·Wo as [b, 64]."""
    name = site.name
    constants[f"{name}.shape"] = [1, site.tokens * site.width]
    return [
        helper.make_node("Mul", [site.key_name, site.value_name], [f"{name}.product"]),
        helper.make_node("Reshape", [f"{name}.product", f"{name}.shape"], [f"{name}.flat"]),
        helper.make_node("MatMul", [f"{name}.flat", f"{name}.to_out"], [f"{name}.delta"]),
        helper.make_node("Mul", ["strength", f"{name}.delta"], [f"{name}.scaled"]),
    ]


def graph(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    initializers: list[TensorProto],
) -> onnx.GraphProto:
    def infos(specs: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(s.name, _ELEMENT[s.dtype], list(s.shape)) for s in specs]

    return helper.make_graph(nodes, name, infos(inputs), infos(outputs), initializers)


def shapes(constants: dict[str, list[int]]) -> list[TensorProto]:
    return [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in constants.items()]


def save(path: Path, made: onnx.GraphProto) -> None:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
