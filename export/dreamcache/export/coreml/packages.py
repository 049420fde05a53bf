"""From parts to packages: converted, compressed, cut in two, merged, and what the contract says of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamcache.export.coreml.checks.ranges import touching
from dreamcache.export.coreml.convert import bisect_package, convert_graph, coreml_name, merge_functions
from dreamcache.export.coreml.graph import saved_function
from dreamcache.export.coreml.modules import CoreMLModule
from dreamcache.export.coreml.weights.compress import compress_package
from dreamcache.export.coreml.weights.recipe import WeightRecipe
from dreamcache.export.options import CoreMLOptions
from dreamcache.export.parity.gates import check_disk
from dreamcache.export.progress import TellStage
from dreamcache.runtime.bundle.coreml import CoreMLFunction, CoreMLModel, CoreMLPiece
from dreamcache.runtime.bundle.tensors import TensorSpec

FOLDER = "coreml"
UNET = "Unet"


@dataclass(frozen=True)
class Packages:
    """What was written.

    Attributes:
        models: by the package's name.
        graphs: by the graph's name, the functions that compute it.
        disk_ratio: bytes of all packages over those of the first graph that is called ``denoise``.
    """

    models: Mapping[str, CoreMLModel]
    graphs: Mapping[str, tuple[CoreMLPiece, ...]]
    disk_ratio: float | None = None


def write_unet(
    place: Path,
    parts: Mapping[str, CoreMLModule],
    options: CoreMLOptions,
    recipe: WeightRecipe | None,
    kept: Set[str],
    progress: TellStage,
) -> Packages:
    """The UNet's functions, in one package or two chunks where the target knows functions, else in one each.

    Args:
        place: the folder.
        parts: by function; ``denoise`` is the default one.
        options: how.
        recipe: of single weights; others are as `options` says.
        kept: names of activations that stay in 32 bits.
        progress: told what begins.

    Raises:
        ExportError: a part does not convert, compress or share its weights.
    """
    work = place / "work"
    work.mkdir()
    try:
        ready = {
            name: _pieces(work, name, part, options, recipe, kept, progress) for name, part in parts.items()
        }
        alone = sum(map(_bytes, ready["denoise"])), sum(map(_weight_bytes, ready["denoise"]))
        models: dict[str, CoreMLModel] = {}
        graphs: dict[str, list[CoreMLPiece]] = {name: [] for name in parts}
        for index in range(len(ready["denoise"])):
            chunk = f"Chunk{index + 1}" if options.chunk_unet else ""
            step = {name: pieces[index] for name, pieces in ready.items()}
            for model, functions in _grouped(step, options).items():
                package = f"{UNET}{model}{chunk}"
                target = place / f"{package}.mlpackage"
                if functions.keys() == {"main"}:
                    step[functions["main"]].rename(target)
                else:
                    progress(f"Core ML: {package}, {len(functions)} functions")
                    merge_functions({name: step[name] for name in functions}, target, "denoise")
                declared = {
                    called: _declare(target, called, parts[name]) for called, name in functions.items()
                }
                models[package] = CoreMLModel(package=f"{FOLDER}/{target.name}", functions=declared)
                for called, name in functions.items():
                    graphs[name].append(CoreMLPiece(model=package, function=called))
    finally:
        shutil.rmtree(work)
    targets = [place / Path(model.package).name for model in models.values()]
    if options.shares and len(parts) == 2:
        check_disk(sum(map(_weight_bytes, targets)), alone[1])
    return Packages(
        models, {name: tuple(pieces) for name, pieces in graphs.items()}, sum(map(_bytes, targets)) / alone[0]
    )


def write_component(
    place: Path,
    name: str,
    parts: Mapping[str, CoreMLModule],
    options: CoreMLOptions,
    kept: Set[str],
    progress: TellStage,
) -> Packages:
    """Text encoder or VAE: a function for each resolution, or a package for each where functions are not known.

    Args:
        place: the folder.
        name: of the package.
        parts: by graph; the first one is the default.
        options: how.
        kept: names of activations that stay in 32 bits.
        progress: told what begins.

    Raises:
        ExportError: a part does not convert.
    """
    progress(f"Core ML: {name}")
    first = next(iter(parts))
    work = place / "work"
    work.mkdir()
    try:
        ready = {}
        for graph, part in parts.items():
            ready[graph] = work / f"{graph}.mlpackage"
            convert_graph(
                part.module,
                part.inputs,
                part.outputs,
                ready[graph],
                target=options.target,
                kept=touching(kept),
            )
        models: dict[str, CoreMLModel] = {}
        graphs: dict[str, tuple[CoreMLPiece, ...]] = {}
        if options.shares and len(parts) > 1:
            called = {graph: "main" + graph.removeprefix(first) for graph in parts}
            target = place / f"{name}.mlpackage"
            merge_functions({called[graph]: path for graph, path in ready.items()}, target, "main")
            functions = {
                called[graph]: _declare(target, called[graph], part) for graph, part in parts.items()
            }
            models[name] = CoreMLModel(package=f"{FOLDER}/{target.name}", functions=functions)
            graphs = {graph: (CoreMLPiece(model=name, function=called[graph]),) for graph in parts}
        else:
            for graph, part in parts.items():
                package = name + graph.removeprefix(first)
                target = place / f"{package}.mlpackage"
                ready[graph].rename(target)
                models[package] = CoreMLModel(
                    package=f"{FOLDER}/{target.name}", functions={"main": _declare(target, "main", part)}
                )
                graphs[graph] = (CoreMLPiece(model=package, function="main"),)
    finally:
        shutil.rmtree(work)
    return Packages(models, graphs)


def _pieces(
    work: Path,
    name: str,
    part: CoreMLModule,
    options: CoreMLOptions,
    recipe: WeightRecipe | None,
    kept: Set[str],
    progress: TellStage,
) -> list[Path]:
    """One package, or its two chunks, of a single function."""
    progress(f"Core ML: {name}")
    ready = work / f"{name}.mlpackage"
    convert_graph(
        part.module,
        part.inputs,
        part.outputs,
        ready,
        target=options.target,
        kept=touching(kept),
    )
    if options.weights != "fp16":
        progress(f"Core ML: {name}, weights as {options.weights}")
        exact, ready = ready, work / f"{name}-{options.weights}.mlpackage"
        compress_package(exact, ready, recipe.of(exact) if recipe else {}, options.default_format)
        shutil.rmtree(exact)
    if not options.chunk_unet:
        return [ready]
    progress(f"Core ML: {name} in two chunks")
    chunks = bisect_package(ready, work / f"{name}-chunks")
    shutil.rmtree(ready)
    return list(chunks)


def _grouped(ready: Mapping[str, Path], options: CoreMLOptions) -> dict[str, dict[str, str]]:
    """By what a package's name ends in, its functions' names and the graphs that they are of."""
    if options.shares:
        return {"": {name: name for name in ready}}
    return {_ending(name): {"main": name} for name in ready}


def _ending(name: str) -> str:
    """Of the package that holds one function alone: nothing for ``denoise``, ``Cache_768`` for ``cache_768``."""
    return name.capitalize().removeprefix("Denoise")


def _declare(package: Path, called: str, part: CoreMLModule) -> CoreMLFunction:
    """The saved function's tensors, in the contract's names where it is whole, and its own between chunks."""
    saved = saved_function(package, called)
    known = {coreml_name(spec.name): spec for spec in (*part.inputs, *part.outputs)}
    shapes = {tensor.name: (tensor.shape, tensor.dtype) for one in saved.operations for tensor in one.outputs}

    def between(name: str) -> TensorSpec:
        shape, dtype = shapes[name]
        return TensorSpec.model_validate(
            {"name": name, "shape": shape, "dtype": np.dtype(dtype).name, "meaning": "between two chunks"}
        )

    shapes |= {tensor.name: (tensor.shape, tensor.dtype) for tensor in saved.inputs}
    given = {tensor.name for tensor in saved.inputs}
    ordered = [coreml_name(spec.name) for spec in part.inputs if coreml_name(spec.name) in given]
    inputs = [*ordered, *sorted(given - set(ordered))]
    returned = [coreml_name(spec.name) for spec in part.outputs if coreml_name(spec.name) in saved.outputs]
    outputs = [*returned, *sorted(set(saved.outputs) - set(returned))]
    return CoreMLFunction(
        inputs=tuple(known.get(name) or between(name) for name in inputs),
        outputs=tuple(known.get(name) or between(name) for name in outputs),
    )


def _bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


def _weight_bytes(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("weight.bin"))
