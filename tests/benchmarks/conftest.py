"""Fixtures of the instrument's tests: tiny bundles that pass their gate, with a plain graph, and a whole record."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from dreamcache.benchmarks.record import Record, read_record
from dreamcache.runtime.cli import main
from dreamcache.runtime.contract import CONTRACT_NAME, GraphSpec, ParityReport

PARITY = ParityReport(
    psnr_db={"denoiser": 120.0, "cache": 130.0},
    condition={"reference": 1.0, "text": 1.01},
    trajectory_db=(125.0, 118.0),
)
Build = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module `tiny_bundle` (test folders are no packages, so it is loaded by its path)."""
    place = Path(__file__).parents[1] / "runtime" / "tiny_bundle.py"
    spec = importlib.util.spec_from_file_location("tiny_bundle", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build(tiny: ModuleType) -> Build:
    """Writes a tiny bundle with a plain graph beside its denoiser."""

    def write(folder: Path, parity: ParityReport = PARITY, plain: bool = True) -> Path:
        tiny.build(folder, parity=parity)
        if plain:
            _add_plain(folder, tiny)
        return folder

    return write


@pytest.fixture(scope="session")
def gated(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that passes its gate."""
    return build(tmp_path_factory.mktemp("gated") / "first")


@pytest.fixture(scope="session")
def outputs(gated: Path, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of everything that one quick run of two alternating bundles writes."""
    folder = tmp_path_factory.mktemp("outputs")
    other = build(folder / "second", plain=False)
    command = ["bench", str(gated), "--against", str(other), "--quick", "--scaling", "--sustained", "0.02"]
    for option in ("json", "markdown", "csv", "html"):
        command += [f"--{option}", str(folder / f"out.{option}")]
    with pytest.raises(SystemExit) as left:
        main([*command, "--threads", "1"])
    assert left.value.code == 0
    return folder


@pytest.fixture(scope="session")
def record(outputs: Path) -> Record:
    return read_record(outputs / "out.json")


def _add_plain(folder: Path, tiny: ModuleType) -> None:
    """The stock model as a graph of its own: tanh of the latent, whatever text and timestep are."""
    import onnx
    from onnx import helper

    from dreamcache.runtime.tensors import plain_inputs, plain_outputs

    shape = tiny.architecture()
    spec = GraphSpec(file="unet/plain.onnx", inputs=plain_inputs(shape), outputs=plain_outputs(shape))
    values = [
        [helper.make_tensor_value_info(one.name, onnx.TensorProto.FLOAT, one.shape) for one in side]
        for side in (spec.inputs, spec.outputs)
    ]
    graph = helper.make_graph([helper.make_node("Tanh", ["latent"], ["prediction"])], "plain", *values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, str(folder / spec.file))
    graphs = json.loads((folder / CONTRACT_NAME).read_text())["graphs"]
    tiny.edit_contract(folder, graphs={**graphs, "plain": spec.model_dump(mode="json")})
    tiny.seal(folder)
