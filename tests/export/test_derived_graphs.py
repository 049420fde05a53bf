"""The plain and the shallow graph compute what the denoiser does, each without the part that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from dreamcache.export.gates import psnr_db
from dreamcache.runtime.contract import Contract, parse_contract
from dreamcache.runtime.tensors import TensorSpec

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
