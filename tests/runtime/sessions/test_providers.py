"""Which options a provider is opened with, and where fast math is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from dreamcache.runtime import Pipeline
from dreamcache.runtime.cli.main import main
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sessions.providers import (
    MATHS,
    Math,
    check_math,
    cpu_has_bf16,
    describe_math,
    provider_options,
)

OPENVINO = "OpenVINOExecutionProvider"
has_openvino = OPENVINO in onnxruntime.get_available_providers()
needs_openvino = pytest.mark.skipif(not has_openvino, reason="needs onnxruntime-openvino")
needs_bf16 = pytest.mark.skipif(not cpu_has_bf16(), reason="needs a CPU with bf16 instructions")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16", True),
        ("fpu amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f avx512_vnni amx_tile amx_int8", False),
        ("fpu not_avx512_bf16", False),
    ],
)
def test_bf16_is_read_from_the_flags(flags: str, expected: bool) -> None:
    text = f"processor\t: 0\nmodel name\t: avx512_bf16 in a name\nflags\t\t: {flags}\n\nprocessor\t: 1\n"
    assert cpu_has_bf16(text) is expected


def test_a_system_that_does_not_tell_has_no_bf16() -> None:
    assert not cpu_has_bf16("")
    assert not cpu_has_bf16("processor\t: 0\nFeatures\t: fp asimd bf16\n")


@pytest.mark.parametrize(("math", "bf16"), [("exact", True), ("exact", False), ("fast", True)])
def test_the_precision_that_openvino_is_given(math: Math, bf16: bool) -> None:
    assert check_math(math, [OPENVINO], bf16) == math
    openvino, cpu = provider_options([OPENVINO, "CPUExecutionProvider"], math)
    expected = {"exact": "f32", "fast": "bf16"}[math]
    assert set(openvino) == {"load_config"}
    assert json.loads(openvino["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": expected}}
    assert cpu == {}


@pytest.mark.parametrize("math", MATHS)
def test_attention_over_constant_keys_is_not_fused(math: Math) -> None:
    (apart,) = provider_options([OPENVINO], math, constant_keys=True)
    assert json.loads(apart["load_config"])["CPU"]["SNIPPETS_MODE"] == "DISABLE"
    (fused,) = provider_options([OPENVINO], math)
    assert "SNIPPETS_MODE" not in fused["load_config"]
    assert provider_options(["CPUExecutionProvider"], math, constant_keys=True) == [{}]


@needs_openvino
@pytest.mark.parametrize(("math", "least_db"), [("exact", 100.0), ("fast", 30.0)])
def test_attention_over_constant_keys_is_right(math: Math, least_db: float) -> None:
    """Cross-attention as the caching graph has it, at Stable Diffusion's 77 tokens, against the CPU provider."""
    if math == "fast" and not cpu_has_bf16():
        pytest.skip("needs a CPU with bf16 instructions")
    graph = _attention(heads=8, queries=64, width=40, keys=77)
    feed = {"x": np.random.default_rng(1).standard_normal((1, 64, 320)).astype(np.float32)}
    options = provider_options([OPENVINO], math, constant_keys=True)
    (expected,) = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, feed)
    (received,) = onnxruntime.InferenceSession(graph, providers=[OPENVINO], provider_options=options).run(
        None, feed
    )
    error = np.mean((received - expected) ** 2)
    assert 10 * np.log10(np.mean(expected**2) / error) > least_db


def test_fast_is_refused_where_nothing_is_fast() -> None:
    with pytest.raises(SettingsError, match=r"no bf16 instructions .*choose math exact"):
        check_math("fast", [OPENVINO], bf16=False)
    for providers in (["CPUExecutionProvider"], ["cpu"], ["CPUExecutionProvider", OPENVINO]):
        with pytest.raises(
            SettingsError, match=r"provider cpu computes in fp32 only; choose provider openvino"
        ):
            check_math("fast", providers, bf16=True)
        assert check_math("exact", providers, bf16=True) == "exact"
    with pytest.raises(SettingsError, match=r"math: one of exact, fast is expected, received 'quick'"):
        check_math("quick", [OPENVINO], bf16=True)


def test_only_fast_has_something_to_say() -> None:
    assert describe_math("fast") == "math fast: OpenVINO computes in bf16"
    assert describe_math("exact") is None


def test_pipeline_and_commands_refuse_in_one_line(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Pipeline.load(pristine).sessions.math == "exact"
    with pytest.raises(SettingsError, match="provider cpu computes in fp32"):
        Pipeline.load(pristine, math="fast")
    out = tmp_path / "p.png"
    draw = ("generate", pristine, "--prompt", "x", "--reference", toy, "--out", out)
    for command in (draw, ("bench", pristine)):
        for math, said in (("fast", "provider cpu computes in fp32"), ("quick", "one of exact, fast")):
            with pytest.raises(SystemExit) as left:
                main([str(word) for word in (*command, "--math", math)])
            lines = capsys.readouterr().err.strip().splitlines()
            assert left.value.code == 1
            assert len(lines) == 1
            assert said in lines[0]
    assert not out.exists()


def _attention(heads: int, queries: int, width: int, keys: int) -> bytes:
    """Attention of projected x [1, queries, heads × width] over stored keys and values, as standard operators."""
    rng = np.random.default_rng(0)
    inner, shape = heads * width, [1, queries, heads * width]
    stored = {
        "w": (rng.standard_normal((inner, inner)) / 8).astype(np.float32),
        "k": rng.standard_normal((1, heads, width, keys)).astype(np.float32),
        "v": rng.standard_normal((1, heads, keys, width)).astype(np.float32),
        "scale": np.array([width**-0.5], np.float32),
        "apart": np.array([1, queries, heads, width]),
        "joined": np.array(shape),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Reshape", ["q", "apart"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["heads"], perm=[0, 2, 1, 3]),
        helper.make_node("Mul", ["heads", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "k"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(model.SerializeToString())


@needs_openvino
@needs_bf16
def test_bf16_reaches_the_session(pristine: Path, toy: Path) -> None:
    """Predictions differ as bf16's 8 bits do: by far more than fp32's rounding, by far less than the signal."""
    program = """
import sys, numpy as np
from dreamcache.runtime import Pipeline
pipe = Pipeline.load(sys.argv[1], providers=[sys.argv[2]], math=sys.argv[3])
*_, step = pipe.denoise("a robot", pipe.cache(sys.argv[4]), steps=3, seed=7)
np.save(sys.argv[5], step.latent)
"""
    latents = {}
    for name, provider, math in (
        ("cpu", "cpu", "exact"),
        ("exact", "openvino", "exact"),
        ("fast", "openvino", "fast"),
    ):
        place = toy.with_name(f"{name}.npy")
        words = [sys.executable, "-c", program, str(pristine), provider, math, str(toy), str(place)]
        subprocess.run(words, check=True)
        latents[name] = np.load(place)

    def away(name: str) -> float:
        distance = np.linalg.norm(latents[name] - latents["cpu"]) / np.linalg.norm(latents["cpu"])
        return float(distance)

    assert away("exact") < 1e-4
    assert 1e-3 < away("fast") < 1e-1
