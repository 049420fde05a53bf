"""Which options a provider is opened with, and where fast math is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.runtime import Pipeline
from dreamcache.runtime.cli.main import main
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sessions.providers import (
    arm_has_bf16,
    check_math,
    cpu_has_bf16,
    describe_math,
)


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


def test_arm_has_features_of_its_own() -> None:
    assert arm_has_bf16("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert not arm_has_bf16("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert check_math("fast", ["cpu"], bf16=False, arm_bf16=True) == "fast"
    said = describe_math("fast", "aarch64")
    assert said == "math fast: ONNX Runtime multiplies matrices in bf16"


def test_fast_is_refused_where_nothing_is_fast() -> None:
    with pytest.raises(SettingsError, match=r"no bf16 instructions .*choose math exact"):
        check_math("fast", ["openvino"], bf16=False)
    for providers in (["CPUExecutionProvider"], ["cpu"], ["CPUExecutionProvider", "openvino"]):
        with pytest.raises(
            SettingsError, match=r"provider cpu computes in fp32 only; choose provider openvino"
        ):
            check_math("fast", providers, bf16=True)
        assert check_math("exact", providers, bf16=True) == "exact"
    with pytest.raises(SettingsError, match=r"math: one of exact, fast is expected, received 'quick'"):
        check_math("quick", ["openvino"], bf16=True)


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
