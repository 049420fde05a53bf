"""The Core ML side of a bundle: packages below `coreml/`, each one measured by running what was saved.

Names and folder are those of apple/ml-stable-diffusion, so that people who know its layout find their way.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from dreamcache.export.coreml.checks.measure import (
    Measured,
    check_measured,
    measure_samples,
    measure_trajectory,
)
from dreamcache.export.coreml.checks.ranges import SENTINEL, overflowing
from dreamcache.export.coreml.checks.recording import FILE, Recording, without_cache
from dreamcache.export.coreml.graph import Interpreted, open_graph
from dreamcache.export.coreml.guide import write_guide
from dreamcache.export.coreml.mil.interpreter import Arithmetic
from dreamcache.export.coreml.modules import Part, other_parts, unet_parts
from dreamcache.export.coreml.options import Choices
from dreamcache.export.coreml.packages import FOLDER, UNET, Packages, write_component, write_unet
from dreamcache.export.coreml.weights.mixed import find_recipe
from dreamcache.export.coreml.weights.recipe import Recipe
from dreamcache.export.declare.architecture import (
    declare_architecture,
    declare_guidance,
    declare_scheduler,
    declare_vae,
)
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.trace import sample_input
from dreamcache.export.parity.torch_reference import TorchSide
from dreamcache.export.parts.unet import is_large
from dreamcache.export.source import Source
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.sessions.allocator import release_freed

PACKAGES = {"text_encoder": "TextEncoder", "vae_encoder": "VAEEncoder", "vae_decoder": "VAEDecoder"}

Progress = Callable[[str], None]
Write = Callable[[frozenset[str]], Packages]


def export_coreml(
    source: Source,
    folder: Path,
    architecture: Architecture,
    choices: Choices,
    progress: Progress = lambda _: None,
    reference_pool: int = 1,
) -> CoreMLPart:
    """Write every package below `folder`/coreml and measure it.

    Args:
        source: what is exported.
        folder: of the unfinished bundle.
        architecture: shapes.
        choices: see there.
        progress: called with what begins.
        reference_pool: see `graphs.CachingGraph`.

    Raises:
        ExportError: a part does not convert, or a gate fails.
    """
    place = folder / FOLDER
    with _room(place):
        sizes = {"": architecture} | {
            f"_{pixels}": _resized(source, architecture, pixels, reference_pool)
            for pixels in choices.resolutions
        }
        parts = {
            f"{name}{size}": part
            for size, shapes in sizes.items()
            for name, part in unet_parts(
                source.base, source.conditioned, shapes, choices.attention, reference_pool
            ).items()
        }
        components = {
            f"{name}{size}": part
            for size, shapes in sizes.items()
            for name, part in other_parts(source.base, shapes).items()
            if not (size and name == "text_encoder")
        }
        progress("Core ML: PyTorch's own trajectory")
        recording = _record(source, architecture, reference_pool, parts, components)
        recording.save(place / FILE)
        recipe = None
        if choices.weights == "mixed":
            recipe = find_recipe(place, parts["denoise"], recording, architecture, choices, progress)
        writers = _writers(place, parts, components, choices, recipe, progress)
        for name in ("vocab.json", "merges.txt"):
            shutil.copy(folder / "tokenizer" / name, place / name)
        part = _written_to_fit(folder, writers, choices, recipe, architecture, recording, progress)
        guide = write_guide(
            part,
            architecture,
            declare_scheduler(source.base),
            declare_guidance(source.metadata, source.base.sampling),
            declare_vae(source.base),
            source.conditioned.config.cache_timestep,
        )
        (place / "README.md").write_text(guide, encoding="utf-8")
    return part


def measure_part(
    folder: Path,
    part: CoreMLPart,
    architecture: Architecture,
    recording: Recording,
    arithmetic: Arithmetic,
) -> tuple[Measured, dict[str, float], Interpreted]:
    """Every graph of a part, run in PyTorch: along the trajectory, and on samples; and who ran them."""
    open_piece = Interpreted(arithmetic)
    opened = lambda name: open_graph(folder, part, name, open_piece)  # noqa: E731 (short, and passed twice)
    measured = measure_trajectory(opened, architecture, recording)
    release_freed()
    samples = measure_samples(opened, part, recording)
    release_freed()
    return measured, samples, open_piece


def _writers(
    place: Path,
    parts: Mapping[str, Part],
    components: Mapping[str, Part],
    choices: Choices,
    recipe: Recipe | None,
    progress: Progress,
) -> dict[str, Write]:
    """What writes each package, given the activations that stay in 32 bits."""

    def component(name: str, package: str) -> Write:
        own = {graph: part for graph, part in components.items() if graph.startswith(name)}
        return lambda kept: write_component(place, package, own, choices, kept, progress)

    written = {package: component(name, package) for name, package in PACKAGES.items()}
    return {UNET: lambda kept: write_unet(place, parts, choices, recipe, kept, progress)} | written


def _written_to_fit(
    folder: Path,
    writers: Mapping[str, Write],
    choices: Choices,
    recipe: Recipe | None,
    architecture: Architecture,
    recording: Recording,
    progress: Progress,
) -> CoreMLPart:
    """Written, watched, and where something leaves the range of 16 bits, written again with it in 32."""
    kept: dict[str, frozenset[str]] = {}
    packages = {name: write(frozenset()) for name, write in writers.items()}
    while True:
        part = _declared(choices, recipe, packages, kept)
        progress("Core ML: watching ranges, comparing in 32 bits")
        exact, samples, watched = measure_part(folder, part, architecture, recording, "fp32")
        wide = _wide(packages, watched)
        if not wide:
            break
        for name, activations in wide.items():
            if name in kept:
                raise ExportError(
                    f"Core ML {name}: {min(activations)} and {len(activations) - 1} more leave the range of 16 bits "
                    "where 32 were asked for; use --target onnx, and report this"
                )
            progress(
                f"Core ML: {len(activations)} activations of {name} leave the range of 16 bits and stay in 32"
            )
            kept[name] = activations
            for model in packages[name].models.values():
                shutil.rmtree(folder / model.package)
            packages[name] = writers[name](activations)
    check_measured(exact, samples, choices.weights, "32 bits")
    progress("Core ML: comparing in 16 bits")
    rounded, rounded_samples, _ = measure_part(folder, part, architecture, recording, "fp16")
    check_measured(rounded, rounded_samples, choices.weights, "16 bits")
    psnr = {**exact.psnr_db, **samples}
    psnr |= {f"{name} fp16": db for name, db in {**rounded.psnr_db, **rounded_samples}.items()}
    finite = [value for seen in watched.largest.values() for value in seen.values() if value < SENTINEL]
    update = {
        "psnr_db": psnr,
        "condition": rounded.condition,
        "trajectory_db": rounded.trajectory_db,
        "largest": max(finite),
    }
    return part.model_copy(update=update)


def _wide(packages: Mapping[str, Packages], watched: Interpreted) -> dict[str, frozenset[str]]:
    """By writer, the activations that leave the range of 16 bits."""
    found: dict[str, frozenset[str]] = {}
    for name, written in packages.items():
        places = {Path(model.package).name for model in written.models.values()}
        wide = {
            activation
            for (package, _), seen in watched.largest.items()
            if package.name in places
            for activation in overflowing(seen)
        }
        if wide:
            found[name] = frozenset(wide)
    return found


def _declared(
    choices: Choices,
    recipe: Recipe | None,
    packages: Mapping[str, Packages],
    kept: Mapping[str, frozenset[str]],
) -> CoreMLPart:
    return CoreMLPart(
        target=choices.target,
        attention=choices.attention,
        weights=choices.weights,
        layers={} if recipe is None else dict(recipe.formats),
        models={name: model for written in packages.values() for name, model in written.models.items()},
        graphs={name: pieces for written in packages.values() for name, pieces in written.graphs.items()},
        recording=f"{FOLDER}/{FILE}",
        disk_ratio=packages[UNET].disk_ratio,
        kept_in_fp32=tuple(f"{name}/{one}" for name in sorted(kept) for one in sorted(kept[name])),
    )


@torch.no_grad()
def _record(
    source: Source,
    architecture: Architecture,
    reference_pool: int,
    parts: Mapping[str, Part],
    components: Mapping[str, Part],
) -> Recording:
    """PyTorch's trajectory, and what its modules make of sample inputs."""
    side = TorchSide(source.base, source.conditioned, architecture, reference_pool)
    large = is_large(source.base)
    references = (side.reference(0), side.substitute(1) if large else side.reference(1))
    steps = 4 if not large else 1 if source.weights == "random" else 2
    points = side.trajectory(references[0], steps, steps if not large else 1)
    sampled = {name: part for name, part in parts.items() if name not in ("cache", "denoise")}
    outputs = {}
    for name, part in {**components, **sampled}.items():
        found = part.module(*(sample_input(spec) for spec in part.inputs))
        tensors = found if isinstance(found, tuple) else (found,)
        outputs[name] = {spec.name: value.numpy() for spec, value in zip(part.outputs, tensors, strict=True)}
    release_freed()
    return Recording(
        side.embeddings,
        tuple(without_cache(reference) for reference in references),
        tuple(points),
        outputs,
        declare_scheduler(source.base),
    )


def _resized(source: Source, architecture: Architecture, pixels: int, reference_pool: int) -> Architecture:
    """The same at another resolution.

    Raises:
        ExportError: one that this base cannot take, or the bundle's own.
    """
    if pixels == architecture.image_height:
        raise ExportError(f"--coreml-resolution {pixels} is the bundle's own; leave it out")
    return declare_architecture(
        source.name,
        source.base,
        source.conditioned,
        pixels,
        architecture.batch,
        architecture.key_value_pool,
        reference_pool,
    )


@contextmanager
def _room(place: Path) -> Iterator[None]:
    """The folder; a full disk is said in one line."""
    place.mkdir()
    try:
        yield
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise ExportError(f"Core ML: {place} cannot be written: {said}; free some disk") from error
