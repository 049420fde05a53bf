"""The plain and the shallow graph compute what the denoiser does, each without the part that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx_layers import Layers

from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.derived import derive_plain, derive_shallow
from dreamcache.runtime.bundle.contract import Contract, parse_contract
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.bundle.tensors import TensorSpec

Feed = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def contract(tiny_bundle: Path) -> Contract:
    return parse_contract((tiny_bundle / "dreamcache.json").read_text(encoding="utf-8"))


def draw(specs: tuple[TensorSpec, ...], strength: float) -> Feed:
    generator = np.random.default_rng(0)
    feed: Feed = {spec.name: generator.standard_normal(spec.shape).astype(spec.dtype) for spec in specs}
    feed["timestep"][:] = 500.0
    feed["reference_strength"][:] = strength
    return feed


def run(bundle: Path, contract: Contract, name: str, feed: Feed) -> dict[str, NDArray[Any]]:
    graph = contract.graphs.by_name()[name]
    session = onnxruntime.InferenceSession(str(bundle / graph.file), providers=["CPUExecutionProvider"])
    given = {spec.name: feed[spec.name] for spec in graph.inputs}
    outputs = [spec.name for spec in graph.outputs]
    return dict(zip(outputs, session.run(outputs, given), strict=True))


def test_plain_is_the_denoiser_at_strength_0(tiny_bundle: Path, contract: Contract) -> None:
    stock = draw(contract.graphs.denoiser.inputs, 0.0)
    expected = run(tiny_bundle, contract, "denoiser", stock)["prediction"]
    received = run(tiny_bundle, contract, "plain", stock)["prediction"]
    assert psnr_db(expected, received) > 110
    referenced = run(tiny_bundle, contract, "denoiser", draw(contract.graphs.denoiser.inputs, 1.0))[
        "prediction"
    ]
    assert psnr_db(referenced, received) < 60


def test_shallow_goes_on_from_the_deep_features(tiny_bundle: Path, contract: Contract) -> None:
    feed = draw(contract.graphs.denoiser.inputs, 1.0)
    whole = run(tiny_bundle, contract, "denoiser", feed)
    received = run(tiny_bundle, contract, "shallow", {**feed, "deep": whole["deep"]})["prediction"]
    assert psnr_db(whole["prediction"], received) > 110
    other = run(tiny_bundle, contract, "shallow", {**feed, "deep": np.zeros_like(whole["deep"])})[
        "prediction"
    ]
    assert psnr_db(whole["prediction"], other) < 40


def test_all_unet_graphs_read_one_weights_file(tiny_bundle: Path, contract: Contract) -> None:
    graphs = contract.graphs.by_name()
    weights = {graphs[name].weights for name in ("cache", "denoiser", "plain", "shallow")}
    assert weights == {("unet/weights.data",)}
    sizes = [(tiny_bundle / graphs[name].file).stat().st_size for name in ("plain", "shallow")]
    assert max(sizes) < 200_000, "a derived graph carries weights of its own"


def tensors(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, shape=(2,), dtype="float32") for name in names)


def small_denoiser(scaled: bool) -> Layers:
    """deep = 2 latent; prediction = -(deep + strength * cache), or with a sum in the product's place."""
    build = Layers(latent=(2,), reference_strength=(2,), cache=(2,))
    view = build("Reshape", "view", build.inputs["reference_strength"], np.array([2]))
    delta = build("Mul" if scaled else "Add", "delta", view, build.inputs["cache"])
    deep = build("Add", "deep", build.inputs["latent"], build.inputs["latent"])
    prediction = build("Neg", "last", build("Add", "sum", deep, delta))
    build.outputs = {"prediction": (prediction, (2,)), "deep": (deep, (2,))}
    return build


def test_what_is_cut_is_checked() -> None:
    build = small_denoiser(scaled=True)
    model = build.model(**build.outputs)
    plain = derive_plain(model, tensors("latent"), tensors("prediction"))
    assert [node.name for node in plain.graph] == ["deep", "last"]
    shallow = derive_shallow(model, tensors("reference_strength", "cache", "deep"), tensors("prediction"))
    assert [node.name for node in shallow.graph] == ["view", "delta", "sum", "last"]
    # The denoiser is left as it was.
    assert [value.name for value in model.graph.outputs] == ["prediction", "deep"]
    assert len(list(model.graph)) == 5
    with pytest.raises(ExportError, match=r"still reads \['cache'\]"):
        derive_shallow(model, tensors("reference_strength", "deep"), tensors("prediction"))
    other = small_denoiser(scaled=False)
    with pytest.raises(ExportError, match="multiplies nothing by the reference strength"):
        derive_plain(other.model(**other.outputs), tensors("latent"), tensors("prediction"))
