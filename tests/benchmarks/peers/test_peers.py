"""The peers: their arithmetic, their UNets against diffusers, and the command on tiny models."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dreamcache.benchmarks.report.break_even import read_methods
from peers.cases import Case, Row, all_cases
from peers.command import REQUIREMENTS, main
from peers.figures import Figures, bars, row_figures
from peers.table import to_markdown

SCRIPTS = REQUIREMENTS.parent
STAGES = {
    "load": [2.0, 1.0],
    "subject": [5.0],
    "text": [0.5],
    "first_call": [4.0],
    "call": [3.0, 1.0, 2.0],
    "reference_call": [1.5],
    "decode": [6.0],
}
MEASURED = {
    "stages": STAGES,
    "disk_bytes": 3_500_000,
    "memory": {"private_mb": 10.0, "file_backed_mb": None, "resident_mb": 12.0, "samples": 9},
}
CASE = Case("any", "ONNX Runtime", "fp32", "onnx_runtime", "plain", (), ())


def figures(row: Row, steps: int = 20) -> Figures:
    return row_figures(CASE, row, MEASURED, steps)


@pytest.mark.parametrize(
    ("row", "step", "tenth", "first"),
    [
        # Two calls of 2 s a step; text and decoding 6.5 s; loading 3 s, and 2 s that the first call took longer.
        (Row("plain", "plain"), 4.0, 86.5, 91.5),
        (Row("cached", "cached", "once"), 4.0, 86.5, 96.5),
        (Row("encoder", "encoder", "each picture"), 4.0, 91.5, 96.5),
        (Row("copy", "copy", "once", "each branch"), 7.0, 146.5, 156.5),
        (Row("shared", "shared", "once", "each step"), 5.5, 116.5, 126.5),
    ],
)
def test_a_row_is_its_stages_added_up(row: Row, step: float, tenth: float, first: float) -> None:
    found = figures(row)
    assert (found.step_s, found.tenth_s, found.first_s) == pytest.approx((step, tenth, first), abs=1e-9)
    assert found.disk_mb == 3.5
    assert found.personalised == (row.subject != "none")
    assert figures(row, steps=10).tenth_s == pytest.approx(tenth - 10 * step, abs=1e-9)


def test_a_timed_pipeline_needs_no_single_calls() -> None:
    measured = {**MEASURED, "stages": {"load": [1.0], "guided_step": [3.0, 5.0, 4.0], "rest": [7.0]}}
    found = row_figures(CASE, Row("whole", "whole"), measured, 20)
    assert (found.step_s, found.tenth_s, found.first_s) == (4.0, 87.0, 88.0)
    without = {**MEASURED, "stages": {name: STAGES[name] for name in STAGES if name != "reference_call"}}
    with pytest.raises(KeyError, match="reference_call"):
        row_figures(CASE, Row("copy", "copy", "once", "each step"), without, 20)


def row(name: str, tenth: float, precision: str = "int8", engine: str = "ONNX Runtime") -> Figures:
    return Figures(name, name, engine, precision, True, tenth / 20, 0.0, tenth, tenth, 1.0, 1.0, 1.0)


def test_bars_say_where_they_are_missed() -> None:
    rows = [
        row("dreamcache-int8", 100.0),
        row("dreamcache-int8-b8k", 60.0),
        row("second-unet-int8", 190.0),
        row("second-unet-int8-shared", 189.9),
        row("ip-adapter-int8", 100.1),
        row("ip-adapter-int8-kept", 100.0),
        row("pytorch-bf16", 80.0, "bf16", "PyTorch"),
    ]
    verdicts = [bar.verdict for bar in bars({one.name: one for one in rows})]
    assert verdicts == ["met", "MISSED", "met", "MISSED", *["not measured"] * 8, "met"]
    slower = [one for one in rows if one.name != "dreamcache-int8-b8k"]
    last = bars({one.name: one for one in slower})[-1]
    assert last.met is False
    assert "5.00 s (dreamcache-int8) against 4.00 s" in last.text


def test_every_script_has_its_requirements_and_foreign_ones_need_nothing_of_ours() -> None:
    cases = all_cases(Path("b32"), (Path("b8"), Path("b8k")))
    names = [shown.name for case in cases for shown in case.rows]
    assert len(names) == len(set(names))
    assert "dreamcache-int8-b8k" in names
    assert "second-unet-int8-b8k" not in names
    for script in {case.script for case in cases}:
        assert (REQUIREMENTS / f"{script}.txt").is_file(), script
    foreign = {script: _rooms(SCRIPTS / f"{script}.py") for script in ("openvino_plain", "sd_cpp", "job")}
    assert foreign == {"openvino_plain": {"peers.job"}, "sd_cpp": {"peers.job"}, "job": set()}
    assert "dreamcache.runtime" in _rooms(SCRIPTS / "onnx_runtime.py")


def _rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name for name in found if name.split(".")[0] in ("peers", "dreamcache")}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, tiny: ModuleType, tiny_base: Path) -> dict[str, Any]:
    """The command on a hand-built bundle, which is of another base than the folder beside it."""
    folder = tmp_path_factory.mktemp("peers")
    bundle = tiny.build(folder / "b8", precision="int8")
    only = ["dreamcache-int8", "second-unet-int8", "pytorch-second-unet-fp32", "sd-cpp"]
    command = [
        "--work",
        str(folder / "work"),
        "--base",
        str(tiny_base),
        "--encoder",
        "tiny",
        "--threads",
        "1",
    ]
    command += ["--bundle-int8", str(bundle), "--repeats", "2", "--steps", "4", "--only", *only]
    for option in ("json", "markdown", "methods"):
        command += [f"--{option}", str(folder / option)]
    assert main(command) == 0
    assert read_methods(folder / "methods")[0].name == "second UNet, for each branch (ONNX Runtime int8)"
    found: dict[str, Any] = json.loads((folder / "json").read_text(encoding="utf-8"))
    assert (folder / "markdown").read_text(encoding="utf-8") == to_markdown(found)
    return found


def test_the_command_measures_each_case_in_a_process_of_its_own(record: dict[str, Any]) -> None:
    for name in ("dreamcache-int8", "second-unet-int8", "pytorch-second-unet-fp32"):
        case = record["cases"][name]
        assert case["status"] == "measured", case.get("reason")
        assert len(case["stages"]["call"]) == 2
        assert len(case["stages"]["first_call"]) == 1
        assert all(sample > 0 for samples in case["stages"].values() for sample in samples)
        assert case["memory"]["private_mb"] > 5
    assert "torch" in record["cases"]["pytorch-second-unet-fp32"]["libraries"]
    assert "torch" not in record["cases"]["dreamcache-int8"]["libraries"]


def test_the_table_says_what_is_missing_and_what_does_not_belong(record: dict[str, Any]) -> None:
    page = to_markdown(record)
    assert "stable_diffusion_cpp is not installed (requirements/sd_cpp.txt, or --install)" in page
    assert "**Not the same weights:** b8" in page
    assert "second-unet-int8: a lower bound" in page
    assert "not measured: fp32: tenth picture" in page
    same = {**record, "settings": {**record["settings"], "weights_differ": []}}
    assert "Not the same weights" not in to_markdown(same)


def test_a_bundle_of_another_precision_is_refused(
    gated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--work", str(tmp_path), "--bundle-int8", str(gated)]) == 1
    assert "an int8 bundle is expected, received fp32" in capsys.readouterr().err
