"""`--precision web8`: weights alone in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from dreamcache.export.graphs.portable import load_simplified
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.int8 import weights_alone
from dreamcache.export.int8.weights import Float
from dreamcache.export.int8.weights_alone import BLOCK, blocks_of, with_weights_in_8_bits
from dreamcache.export.parity.browser import graph_needs
from dreamcache.export.parity.golden import worst_db
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.golden import read_golden


@pytest.mark.parametrize(("length", "size", "blocks"), [(300, BLOCK, 3), (20, 32, 1)])
def test_blocks_hold_a_matrix_to_half_a_step(length: int, size: int, blocks: int) -> None:
    matrix = np.random.default_rng(0).standard_normal((length, 5)).astype(np.float32)
    codes, scales = blocks_of(matrix)
    assert (codes.shape, scales.shape) == ((5, blocks, size), (5, blocks))
    wide = ((codes.astype(np.float32) - 128) * scales[..., None]).reshape(5, -1).T
    assert np.abs(wide[:length] - matrix).max() <= scales.max() / 2 * 1.001
    assert not wide[length:].any()


def test_every_graph_in_8_bits_and_in_4(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny layers are smaller than what is worth it in real ones.
    monkeypatch.setattr(weights_alone, "_LEAST_VALUES", 256)
    cases = read_golden(open_bundle(tiny_bundle))

    def rewritten(bits: str) -> dict[str, float]:
        found = {}
        for name in ("text_encoder", "vae_encoder", "cache", "denoiser", "vae_decoder"):
            file = tiny_bundle / cases[name].spec.file
            place = tmp_path / f"{name}-{bits}"
            place.mkdir()
            write_shared(place, {"model.onnx": with_weights_in_8_bits(load_simplified(file))}, "weights.data")
            found[name] = worst_db(name, cases[name], place / "model.onnx")
        return found

    eight = rewritten("8")
    assert all(32 < db < 75 for db in eight.values()), eight
    graph = ir.load(tmp_path / "denoiser-8/model.onnx").graph
    kinds = {node.name: node.op_type for node in graph}
    assert {"MatMulNBits", "DequantizeLinear"} <= set(kinds.values())
    assert not {"MatMulInteger", "QuantizeLinear", "DynamicQuantizeLinear"} & set(kinds.values())
    assert kinds["unet.conv_in"] == "Conv"
    assert kinds["unet.time_embedding.linear_1"] in ("Gemm", "MatMul")
    assert kinds["unet.mid_block.attentions.0.proj_in"] == "MatMulNBits"
    needs = graph_needs(tmp_path / "denoiser-8/model.onnx")
    assert (needs.on_cpu, needs.nodes) == ({}, len(graph))
    sizes = [
        place.stat().st_size
        for place in (tmp_path / "denoiser-8/weights.data", tiny_bundle / "unet/weights.data")
    ]
    assert sizes[0] < 0.6 * sizes[1]

    def in_4_bits(matrix: Float) -> tuple[NDArray[np.uint8], Float]:
        codes, scales = blocks_of(matrix)
        return (np.round(codes / 16) * 16).astype(np.uint8), scales

    monkeypatch.setattr(weights_alone, "blocks_of", in_4_bits)
    four = rewritten("4")
    assert all(four[name] < eight[name] - 8 for name in ("text_encoder", "cache", "denoiser")), four
