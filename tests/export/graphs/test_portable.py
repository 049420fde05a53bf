"""The portable form of each graph: one partition for Core ML by ONNX Runtime's own check, and the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnxruntime.tools.mobile_helpers import usability_checker
from onnxruntime.tools.onnx_model_utils import ModelProtoWithShapeInfo, optimize_model

from dreamcache.export.graphs.session import open_exported
from dreamcache.runtime.bundle.folder import open_bundle
from dreamcache.runtime.bundle.golden import read_golden
from dreamcache.runtime.bundle.parity import psnr_db


def partitions(graph: Path, scratch: Path) -> Any:
    """As `python -m onnxruntime.tools.check_onnx_model_mobile_usability` judges a graph for Core ML's MLProgram."""
    optimised = scratch / graph.name
    optimize_model(graph, optimised, use_external_initializers=True)
    model = ModelProtoWithShapeInfo(optimised).model_with_shape_info
    return usability_checker.check_coreml_partitions(model, True, "coreml_supported_mlprogram_ops.md")


def test_every_graph_is_one_partition_for_core_ml(tiny_bundle: Path, tmp_path: Path) -> None:
    graphs = open_bundle(tiny_bundle).contract.graphs.by_name()
    assert {name for name, spec in graphs.items() if spec.portable} == set(graphs) - {
        "text_encoder",
        "vae_encoder",
    }
    for name, spec in graphs.items():
        found = partitions(tiny_bundle / spec.files[-1], tmp_path)
        assert (name, found.suitability().name, found.num_partitions) == (name, "YES", 1)
        # Only the text encoder's lookup of its tokens is left to the CPU.
        assert found.unsupported_ops == ({"ai.onnx:Gather"} if name == "text_encoder" else set())
    fused = partitions(tiny_bundle / graphs["denoiser"].file, tmp_path)
    assert fused.suitability().name == "NO"
    assert fused.num_partitions > 2


def test_both_forms_compute_the_same_on_one_copy_of_the_weights(tiny_bundle: Path) -> None:
    bundle = open_bundle(tiny_bundle)
    for name in ("cache", "denoiser", "vae_decoder"):
        case = read_golden(bundle)[name]
        fused, portable = (
            open_exported(name, tiny_bundle / file, case.spec).run(case.inputs()) for file in case.spec.files
        )
        assert min(psnr_db(fused[tensor], portable[tensor]) for tensor in fused) > 100
        model = onnx.load(tiny_bundle / case.spec.files[-1], load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        inline = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        assert inline < 20_000
        shapes = [
            [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.value_info
        ]
        assert len(shapes) >= len(model.graph.node) - len(model.graph.output)
        assert all(min(shape, default=1) > 0 for shape in shapes)


def test_attention_by_hand() -> None:
    """Two queries, three keys, two heads of one channel, against numpy."""
    import onnx_ir as ir

    from dreamcache.export.graphs.portable import write_attention_out

    random = np.random.default_rng(3)
    query, key, value = (random.standard_normal((1, n, 2)).astype(np.float32) for n in (2, 3, 3))
    names = ("query", "key", "value")
    node = onnx.helper.make_node(
        "MultiHeadAttention", names, ["out"], "attention", domain="com.microsoft", num_heads=2, scale=0.5
    )
    inputs = [
        onnx.helper.make_tensor_value_info(name, 1, array.shape)
        for name, array in zip(names, (query, key, value), strict=True)
    ]
    graph = onnx.helper.make_graph(
        [node], "attention", inputs, [onnx.helper.make_tensor_value_info("out", 1, (1, 2, 2))]
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = ir.from_proto(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10))
    assert write_attention_out(model) == 1
    assert write_attention_out(model) == 0
    run = onnx.reference.ReferenceEvaluator(ir.to_proto(model)).run
    (received,) = run(None, dict(zip(names, (query, key, value), strict=True)))
    expected = np.zeros((1, 2, 2), np.float32)
    for head in range(2):
        scores = np.exp(0.5 * query[0, :, head, None] * key[0, None, :, head])
        expected[0, :, head] = scores / scores.sum(1, keepdims=True) @ value[0, :, head]
    assert received == pytest.approx(expected, abs=1e-6)
