"""`--precision fp16`: half the disk, the same arithmetic; here at another resolution than the base's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_models import write_tiny_adapters

from dreamcache.export.command import export
from dreamcache.export.graphs.fp16 import store_half
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.checks import verify_bundle


def product(weight: np.ndarray) -> ir.Model:  # type: ignore[type-arg]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def stored_types(model: ir.Model) -> set[ir.DataType]:
    return {
        value.const_value.dtype
        for value in model.graph.initializers.values()
        if value.const_value is not None
    }


def test_large_weights_are_stored_in_16_bits_unless_they_overflow() -> None:
    weight = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    model = product(weight)
    assert stored_types(store_half(model)) == {ir.DataType.FLOAT16}
    assert stored_types(model) == {ir.DataType.FLOAT}, "the graph that was given stays as it was"
    assert stored_types(store_half(product(weight * 1e5))) == {ir.DataType.FLOAT}
    assert stored_types(store_half(product(weight[:2, :2]))) == {ir.DataType.FLOAT}


@pytest.fixture(scope="module")
def half(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    # What another reference changes must stand out from what 16 bits do.
    adapters = write_tiny_adapters(folder / "adapters.safetensors", tiny_base, scale=2.0)
    out = folder / "bundle"
    export(out=out, base=str(tiny_base), adapters=adapters, precision="fp16", resolution=64)
    return out


def test_half_of_the_disk(half: Path, tiny_bundle: Path) -> None:
    def weights(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("weights.data"))

    assert 0.45 < weights(half) / weights(tiny_bundle) < 0.65
    parity = open_bundle(half).contract.parity
    assert min(parity.psnr_db.values()) > 50
    # Rounded weights are not fp32's: a bundle at 100 dB would hold no 16 bits.
    assert parity.psnr_db["denoiser"] < 90


def test_every_graph_has_the_resolution_that_was_asked_for(half: Path) -> None:
    contract = open_bundle(half).contract
    assert (contract.architecture.image_height, contract.architecture.latent_height) == (64, 16)
    assert contract.graphs.vae_encoder.inputs[0].shape == (1, 3, 64, 64)
    assert contract.graphs.vae_encoder.outputs[0].shape == (1, 4, 16, 16)
    assert contract.graphs.vae_decoder.outputs[0].shape == (1, 3, 64, 64)
    assert all(check.passed for check in verify_bundle(half))
