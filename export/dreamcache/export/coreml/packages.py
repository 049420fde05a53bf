"""Core ML packages: converted, compressed, cut in two, merged, and declared for the contract."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    with _work(place) as work:
        ready = {
            name: _pieces(work, name, part, options, recipe, kept, progress) for name, part in parts.items()
        }
        alone = sum(map(_bytes, ready["denoise"])), sum(map(_weight_bytes, ready["denoise"]))
        groups = {}
        for piece in range(len(ready["denoise"])):
            chunk = f"Chunk{piece + 1}" if options.chunk_unet else ""
            if options.shares:
                groups[f"{UNET}{chunk}"] = piece, {name: name for name in parts}
            else:
                groups |= {f"{UNET}{_ending(name)}{chunk}": (piece, {"main": name}) for name in parts}
        written = _assemble(place, groups, ready, parts, "denoise", progress)
    targets = [place / Path(model.package).name for model in written.models.values()]
    if options.shares and len(parts) == 2:
        check_disk(sum(map(_weight_bytes, targets)), alone[1])
    return replace(written, disk_ratio=sum(map(_bytes, targets)) / alone[0])


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
    plain = options.model_copy(update={"weights": "fp16", "chunk_unet": False})
    first = next(iter(parts))
    with _work(place) as work:
        ready = {
            graph: _pieces(work, graph, part, plain, None, kept, progress) for graph, part in parts.items()
        }
        endings = {graph: graph.removeprefix(first) for graph in parts}
        if options.shares:
            groups = {name: (0, {f"main{ending}": graph for graph, ending in endings.items()})}
        else:
            groups = {f"{name}{ending}": (0, {"main": graph}) for graph, ending in endings.items()}
        return _assemble(place, groups, ready, parts, "main", progress)


@contextmanager
def _work(place: Path) -> Iterator[Path]:
    """A folder for what is merged or moved; it goes at the end."""
    work = place / "work"
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work)


def _assemble(
    place: Path,
    groups: Mapping[str, tuple[int, Mapping[str, str]]],
    ready: Mapping[str, Sequence[Path]],
    parts: Mapping[str, CoreMLModule],
    default: str,
    progress: TellStage,
) -> Packages:
    """Packages of one function or several.

    Args:
        place: the folder.
        groups: by package, which piece of its graphs it holds, and the graph of each function.
        ready: by graph, the packages of its pieces, each with the single function ``main``.
        parts: by graph.
        default: function of a package that holds several.
        progress: told what begins.
    """
    models: dict[str, CoreMLModel] = {}
    graphs: dict[str, tuple[CoreMLPiece, ...]] = dict.fromkeys(parts, ())
    for package, (piece, functions) in groups.items():
        target = place / f"{package}.mlpackage"
        if functions.keys() == {"main"}:
            ready[functions["main"]][piece].rename(target)
        else:
            progress(f"Core ML: {package}, {len(functions)} functions")
            merge_functions({name: ready[graph][piece] for name, graph in functions.items()}, target, default)
        declared = {name: _declare(target, name, parts[graph]) for name, graph in functions.items()}
        models[package] = CoreMLModel(package=f"{FOLDER}/{target.name}", functions=declared)
        for name, graph in functions.items():
            graphs[graph] += (CoreMLPiece(model=package, function=name),)
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


def _ending(name: str) -> str:
    """Ending of the name of a package with one function: nothing for ``denoise``, ``Cache_768`` for ``cache_768``."""
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
