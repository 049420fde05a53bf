"""The Core ML side of a bundle: packages below `coreml/`, each one measured by running what was saved.

Names and folder are those of apple/ml-stable-diffusion, so that people who know its layout find their way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from dreamcache.export.bundle import Source
from dreamcache.export.coreml.compress import WeightFormat, compress_package
from dreamcache.export.coreml.convert import Target, convert_graph, coreml_name, merge_functions
from dreamcache.export.coreml.guide import write_guide
from dreamcache.export.coreml.interpreter import Arithmetic, Interpreter
from dreamcache.export.coreml.modules import UNET, Attention, Part, other_parts, unet_parts
from dreamcache.export.coreml.package import open_package
from dreamcache.export.coreml.program import Function, read_program
from dreamcache.export.declarations import declare_guidance, declare_scheduler, declare_vae
from dreamcache.export.errors import ExportError
from dreamcache.export.gates import check_condition, check_disk, check_psnr, condition_ratios, psnr_db
from dreamcache.export.onnx_graphs import sample_input
from dreamcache.export.torch_side import TorchSide
from dreamcache.export.unet_parity import measure_unet
from dreamcache.models.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.contract import Graphs
from dreamcache.runtime.coreml_part import CoreMLFunction, CoreMLModel, CoreMLPart
from dreamcache.runtime.tensors import Architecture

FOLDER = "coreml"
UNET_PACKAGE, CACHE_PACKAGE = "Unet", "UnetCache"
LEAST_DB: dict[WeightFormat, float] = {"fp16": 50.0, "int8": 35.0, "palette6": 25.0, "palette4": 10.0}
"""Of every function against PyTorch, in emulated 16 bits; what must hold beside it is the condition's size."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Choices:
    """How the packages are made.

    Attributes:
        target: the oldest system; one package with two functions needs iOS 18, older ones get two packages.
        attention: ``plain`` for CPU and GPU, ``split_einsum`` for the Neural Engine.
        weights: how the UNet's weights are stored.
    """

    target: Target = "iOS18"
    attention: Attention = "plain"
    weights: WeightFormat = "fp16"


def export_coreml(
    source: Source,
    folder: Path,
    architecture: Architecture,
    graphs: Graphs,
    choices: Choices,
    progress: Progress = lambda _: None,
    reference_pool: int = 1,
) -> CoreMLPart:
    """Write every package below `folder`/coreml and measure it.

    Args:
        source: what is exported.
        folder: of the unfinished bundle.
        architecture: shapes.
        graphs: declarations of the ONNX graphs, whose tensors the packages have too.
        choices: see there.
        progress: called with what begins.
        reference_pool: see `graphs.CachingGraph`.

    Raises:
        ExportError: a part does not convert, or a gate fails.
    """
    if choices.weights != "fp16" and choices.target == "iOS16":
        raise ExportError(
            "--coreml-weights: compressed weights are written for iOS17 and later; choose such a target"
        )
    base, conditioned = source.base, source.conditioned
    place = folder / FOLDER
    place.mkdir()
    unet = unet_parts(base, conditioned, architecture, choices.attention, reference_pool)
    packages, disk_ratio = _write_unet(place, unet, choices, progress)
    models = {
        name: CoreMLModel(
            package=f"{FOLDER}/{name}.mlpackage",
            functions={
                called: CoreMLFunction(inputs=unet[function].inputs, outputs=unet[function].outputs)
                for called, function in functions.items()
            },
        )
        for name, functions in packages.items()
    }
    saved = {
        function: _read(place / f"{name}.mlpackage", called)
        for name, functions in packages.items()
        for called, function in functions.items()
    }
    progress("Core ML: comparing the UNet with PyTorch")
    measured = _measure_unet(
        saved, unet, base, conditioned, architecture, reference_pool, LEAST_DB[choices.weights]
    )
    psnr = dict(measured.psnr_db)
    for name, part in other_parts(base, graphs).items():
        progress(f"Core ML: {name}")
        convert_graph(
            part.module, part.inputs, part.outputs, place / f"{name}.mlpackage", target=choices.target
        )
        psnr |= _component_psnr(name, part, _read(place / f"{name}.mlpackage", "main"))
        function = CoreMLFunction(inputs=part.inputs, outputs=part.outputs)
        models[name] = CoreMLModel(package=f"{FOLDER}/{name}.mlpackage", functions={"main": function})
    for name in ("vocab.json", "merges.txt"):
        if (folder / "tokenizer" / name).is_file():
            shutil.copy(folder / "tokenizer" / name, place / name)
    written = CoreMLPart(
        target=choices.target,
        attention=choices.attention,
        compute="fp16",
        weights=choices.weights,
        models=models,
        psnr_db=psnr,
        condition=measured.condition,
        trajectory_db=measured.trajectory_db,
        disk_ratio=disk_ratio,
    )
    guide = write_guide(
        written,
        architecture,
        declare_scheduler(base),
        declare_guidance(source.metadata, base.sampling),
        declare_vae(base),
        conditioned.config.cache_timestep,
    )
    (place / "README.md").write_text(guide, encoding="utf-8")
    return written


class CoreMLGraph:
    """One saved function with the contract's names, for the runner's own code."""

    def __init__(self, part: Part, function: Function, arithmetic: Arithmetic) -> None:
        self._inputs, self._outputs = part.inputs, part.outputs
        self._interpreter = Interpreter(function, arithmetic)

    def run(
        self, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `runtime.sessions.RunnableGraph`."""
        found = self._interpreter.run({coreml_name(spec.name): inputs[spec.name] for spec in self._inputs})
        names = [spec.name for spec in self._outputs]
        return {name: found[coreml_name(name)] for name in names if wanted is None or name in wanted}


@dataclass(frozen=True)
class _Measured:
    psnr_db: dict[str, float]
    condition: dict[str, float]
    trajectory_db: tuple[float, ...]


def _write_unet(
    place: Path, parts: Mapping[str, Part], choices: Choices, progress: Progress
) -> tuple[dict[str, dict[str, str]], float]:
    """By package, its functions' names and what they are of; and the bytes of all over the denoiser's own."""
    work = place / "work"
    work.mkdir()
    ready = {}
    for name, part in parts.items():
        progress(f"Core ML: {name}")
        ready[name] = work / f"{name}.mlpackage"
        convert_graph(part.module, part.inputs, part.outputs, ready[name], target=choices.target)
        if choices.weights != "fp16":
            progress(f"Core ML: {name}, weights as {choices.weights}")
            exact, ready[name] = ready[name], work / f"{name}-{choices.weights}.mlpackage"
            compress_package(exact, ready[name], {}, choices.weights)
    alone, alone_weights = _bytes(ready["denoise"]), _weight_bytes(ready["denoise"])
    packages: dict[str, dict[str, str]]
    if choices.target == "iOS18":
        progress("Core ML: one package of two functions")
        merge_functions(ready, place / f"{UNET_PACKAGE}.mlpackage", "denoise")
        packages = {UNET_PACKAGE: {name: name for name in UNET}}
        both = _bytes(place / f"{UNET_PACKAGE}.mlpackage")
        check_disk(_weight_bytes(place / f"{UNET_PACKAGE}.mlpackage"), alone_weights)
    else:
        packages = {UNET_PACKAGE: {"main": "denoise"}, CACHE_PACKAGE: {"main": "cache"}}
        for package, functions in packages.items():
            ready[functions["main"]].rename(place / f"{package}.mlpackage")
        both = sum(_bytes(place / f"{package}.mlpackage") for package in packages)
    shutil.rmtree(work)
    return packages, both / alone


def _measure_unet(
    saved: Mapping[str, Function],
    parts: Mapping[str, Part],
    base: Base,
    conditioned: ConditionedUNet,
    architecture: Architecture,
    reference_pool: int,
    least_db: float,
) -> _Measured:
    side = TorchSide(base, conditioned, architecture, reference_pool)
    references = [side.reference(0), side.reference(1)]
    points = side.trajectory(references[0], 4, 4)
    psnr: dict[str, float] = {}
    arithmetics: tuple[Arithmetic, ...] = ("fp32", "fp16")
    for arithmetic in arithmetics:
        graphs = {
            graph: CoreMLGraph(parts[name], saved[name], arithmetic)
            for graph, name in (("cache", "cache"), ("denoiser", "denoise"))
        }
        found = measure_unet(graphs.__getitem__, architecture, side, references, points)
        suffix = "" if arithmetic == "fp32" else f" {arithmetic}"
        psnr |= {f"cache{suffix}": found.cache_db, f"denoise{suffix}": found.denoiser_db}
    for name, db in psnr.items():
        check_psnr(f"Core ML {name}", db, least_db)
    check_condition(found.findings)
    return _Measured(psnr, condition_ratios(found.findings), tuple(found.trajectory_db))


@torch.no_grad()
def _component_psnr(name: str, part: Part, function: Function) -> dict[str, float]:
    given = [sample_input(spec) for spec in part.inputs]
    expected = part.module(*given).numpy()
    feed = {coreml_name(spec.name): value.numpy() for spec, value in zip(part.inputs, given, strict=True)}
    output = coreml_name(part.outputs[0].name)
    found = {
        name: psnr_db(expected, Interpreter(function).run(feed)[output]),
        f"{name} fp16": psnr_db(expected, Interpreter(function, "fp16").run(feed)[output]),
    }
    for called, db in found.items():
        check_psnr(f"Core ML {called}", db, LEAST_DB["fp16"] - 10)
    return found


def _read(package: Path, function: str) -> Function:
    return read_program(open_package(package))[function]


def _bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def _weight_bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("weight.bin"))
