"""The graphs as Core ML packages, run by the interpreter, against PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("coremltools")

from dreamcache.export.coreml.checks.ranges import MAX_FP16, overflowing, touching
from dreamcache.export.coreml.convert import convert_graph, coreml_name, merge_functions
from dreamcache.export.coreml.mil.interpreter import Interpreter
from dreamcache.export.coreml.mil.package import MANIFEST, open_package
from dreamcache.export.coreml.mil.program import read_program
from dreamcache.export.coreml.modules import CoreMLModule, component_modules, unet_modules
from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.trace import sample_input
from dreamcache.models.bases.base import load_base
from dreamcache.models.bases.parts.segmenter import FILE, SubjectSegmenter, save_segmenter
from dreamcache.models.checkpoint import load_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.parity import MAX_DISK_RATIO, psnr_db
from dreamcache.runtime.bundle.tensors import TensorSpec


@pytest.fixture(scope="module")
def parts(small_base: Path, small_adapters: Path) -> dict[str, CoreMLModule]:
    base = load_base(small_base)
    conditioned = load_adapters(small_adapters, base.unet)
    architecture = declare_architecture("tiny", base, conditioned, None, 1)
    return unet_modules(base, conditioned, architecture, "plain")


@pytest.fixture(scope="module")
def packages(parts: dict[str, CoreMLModule], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("coreml")
    places = {name: folder / f"{name}.mlpackage" for name in parts}
    for name, part in parts.items():
        convert_graph(part.module, part.inputs, part.outputs, places[name])
    merge_functions(places, folder / "Unet.mlpackage", "denoise")
    return {**places, "both": folder / "Unet.mlpackage"}


def examples(inputs: tuple[TensorSpec, ...], timestep: float) -> list[Tensor]:
    return [
        torch.full_like(sample_input(spec), timestep)
        if spec.name == "timestep"
        else sample_input(spec, index)
        for index, spec in enumerate(inputs)
    ]


@torch.no_grad()
def worst_db(
    part: CoreMLModule, run: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[np.float32]]]
) -> float:
    module, inputs, outputs = part.module, part.inputs, part.outputs
    found = []
    for timestep in (1.0, 999.0):
        given = examples(inputs, timestep)
        expected = module(*given)
        received = run(
            {coreml_name(spec.name): value.numpy() for spec, value in zip(inputs, given, strict=True)}
        )
        pairs = zip(outputs, expected if isinstance(expected, tuple) else (expected,), strict=True)
        found += [psnr_db(value.numpy(), received[coreml_name(spec.name)]) for spec, value in pairs]
    return min(found)


def test_both_functions_compute_what_pytorch_does(
    parts: dict[str, CoreMLModule], packages: dict[str, Path]
) -> None:
    functions = read_program(open_package(packages["both"]))
    assert functions.keys() == {"cache", "denoise"}
    for name, part in parts.items():
        exact, rounded = Interpreter(functions[name]), Interpreter(functions[name], "fp16")
        # Weights are stored in 16 bits; the rest of the first figure is float32.
        assert worst_db(part, exact.run) > 60
        assert 50 < worst_db(part, rounded.run) < worst_db(part, exact.run) - 3
        assert max(rounded.largest.values()) < MAX_FP16


def test_a_segmenter_of_the_base_is_a_package_too(small_base: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_segmenter(tmp_path / "base" / FILE, SubjectSegmenter((8, 16)), 16, {})
    base = replace(load_base(small_base), path=tmp_path / "base")
    architecture = declare_architecture("tiny", base, ConditionedUNet(base.unet), None, 1)
    part = component_modules(base, architecture)["segmenter"]
    assert part.inputs[0].meaning.endswith("colours from 0 to 1, minus 0.5, over 0.5")
    assert "segmenter" not in component_modules(replace(base, path=small_base), architecture)
    convert_graph(part.module, part.inputs, part.outputs, tmp_path / "Segmenter.mlpackage")
    function = read_program(open_package(tmp_path / "Segmenter.mlpackage"))["main"]
    assert worst_db(part, Interpreter(function).run) > 60
    assert worst_db(part, Interpreter(function, "fp16").run) > 50
    other = replace(part, module=SubjectSegmenter((8, 16)))
    assert worst_db(other, Interpreter(function).run) < 40


def test_two_functions_store_their_weights_once(packages: dict[str, Path]) -> None:
    def weights(name: str) -> int:
        return sum(path.stat().st_size for path in packages[name].rglob("weight.bin"))

    assert weights("both") <= MAX_DISK_RATIO * max(weights("denoise"), weights("cache")) + 100_000
    assert weights("denoise") + weights("cache") > 1.5 * weights("both")


def test_another_cache_gives_another_prediction(
    parts: dict[str, CoreMLModule], packages: dict[str, Path]
) -> None:
    """A program that lost its condition would pass no comparison."""
    inputs = parts["denoise"].inputs
    function = read_program(open_package(packages["denoise"]))["main"]
    given = {
        coreml_name(spec.name): value.numpy()
        for spec, value in zip(inputs, examples(inputs, 500.0), strict=True)
    }
    changed = {name: 2 * value if name.endswith("_key") else value for name, value in given.items()}
    found = [Interpreter(function).run(values)["prediction"] for values in (given, changed)]
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_what_overflows_is_named_and_kept_in_32_bits(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x * 300.0) * (x + 300.0) * 0.01

    spec = TensorSpec(name="x", shape=(1, 4), dtype="float32", meaning="anything")
    out = TensorSpec(name="y", shape=(1, 4), dtype="float32", meaning="anything")
    convert_graph(Large(), (spec,), (out,), tmp_path / "Large.mlpackage")
    (function,) = read_program(open_package(tmp_path / "Large.mlpackage")).values()
    rounded = Interpreter(function, "fp16")
    rounded.run({"x": np.full((1, 4), 0.1, np.float32)})
    assert overflowing(rounded.largest) == set()
    large = {"x": np.full((1, 4), 2.0, np.float32)}
    assert np.isinf(rounded.run(large)["y"]).all()
    exact = Interpreter(function)
    assert exact.run(large)["y"] == pytest.approx(1812, rel=0.01)
    names = overflowing(exact.largest)
    assert len(names) == 1
    place = tmp_path / "Kept.mlpackage"
    convert_graph(Large(), (spec,), (out,), place, kept=touching(names))
    (mended,) = read_program(open_package(place)).values()
    assert Interpreter(mended, "fp16").run(large)["y"] == pytest.approx(1812, rel=0.01)


def test_a_mask_is_no_overflow() -> None:
    assert overflowing({"mask": 3.4e38, "scores": float("inf"), "fine": 30000.0}) == set()
    assert overflowing({"product_cast_fp16": 40000.0, "broken": float("nan")}) == {"product", "broken"}


def test_broken_packages_are_refused(packages: dict[str, Path], tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return shutil.copytree(packages["cache"], tmp_path / f"{name}.mlpackage")

    def read(folder: Path) -> None:
        read_program(open_package(folder))

    def file(folder: Path, name: str) -> Path:
        return next(folder.rglob(name))

    read(copy("whole"))
    with pytest.raises(ExportError, match=r"Manifest\.json is expected"):
        read(tmp_path / "absent.mlpackage")
    folder = copy("manifest")
    (folder / MANIFEST).write_text("{")
    with pytest.raises(ExportError, match=r"Manifest\.json is expected"):
        read(folder)
    folder = copy("leaves")
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("com.apple.CoreML/model.mlmodel", "../../whole.mlpackage/x"))
    with pytest.raises(ExportError, match="leaves the package"):
        read(folder)
    folder = copy("truncated")
    weights = file(folder, "weight.bin")
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="truncated, a blob ends"):
        read(folder)
    folder = copy("edited")
    weights = file(folder, "weight.bin")
    weights.write_bytes(weights.read_bytes()[:64] + b"\0" * 64 + weights.read_bytes()[128:])
    with pytest.raises(ExportError, match="expected a blob at"):
        read(folder)
    folder = copy("newer")
    model = file(folder, "model.mlmodel")
    specification = open_package(folder).specification
    specification.specificationVersion = 99
    model.write_bytes(specification.SerializeToString())
    with pytest.raises(ExportError, match="version 99 is newer than 9"):
        read(folder)
    folder = copy("garbage")
    file(folder, "model.mlmodel").write_bytes(b"\xff" * 100)
    with pytest.raises(ExportError, match="not a Core ML specification"):
        read(folder)
    folder = copy("weights")
    file(folder, "weight.bin").unlink()
    with pytest.raises(ExportError, match=r"weight\.bin is missing"):
        read(folder)


def test_a_function_takes_its_own_inputs(packages: dict[str, Path]) -> None:
    function = read_program(open_package(packages["cache"]))["main"]
    shape = function.inputs[0].shape
    with pytest.raises(ExportError, match=r"inputs \['latent'\] are expected, received \['picture'\]"):
        Interpreter(function).run({"picture": np.zeros(shape, np.float32)})
    with pytest.raises(ExportError, match=r"latent \(1, 4, \d+, \d+\) is expected, received \(1, 4, 2, 2\)"):
        Interpreter(function).run({"latent": np.zeros((1, 4, 2, 2), np.float32)})
