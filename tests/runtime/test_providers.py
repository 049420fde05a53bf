"""Which options a provider is opened with, and where fast math is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dreamcache.runtime import Pipeline
from dreamcache.runtime.cli import main
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.providers import (
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
