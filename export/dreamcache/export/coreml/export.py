"""Core ML packages of a bundle, below `coreml/`; each saved package is run and measured.

Names and folder are those of apple/ml-stable-diffusion, so that people who know its layout find their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dreamcache.export.coreml.checks.recording import FILE, record
from dreamcache.export.coreml.fitting import WritePackages, written_to_fit
from dreamcache.export.coreml.guide import write_guide
from dreamcache.export.coreml.modules import CoreMLModule, component_modules, unet_modules
from dreamcache.export.coreml.packages import FOLDER, UNET, write_component, write_unet
from dreamcache.export.coreml.text_files import describe_text, write_tokenizer
from dreamcache.export.coreml.weights.mixed import find_recipe
from dreamcache.export.coreml.weights.recipe import WeightRecipe
from dreamcache.export.declare.architecture import declare_architecture
from dreamcache.export.declare.settings import DeclaredSettings
from dreamcache.export.declare.sizes import PictureSize
from dreamcache.export.errors import ExportError
from dreamcache.export.options import EXACT, Approximations, CoreMLOptions
from dreamcache.export.progress import TellStage
from dreamcache.export.source import Source
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.coreml import CoreMLPart

PACKAGES = {
    "text_encoder": "TextEncoder",
    "text_encoder_2": "TextEncoder2",
    "vae_encoder": "VAEEncoder",
    "vae_decoder": "VAEDecoder",
    "segmenter": "Segmenter",
}


def export_coreml(
    source: Source,
    folder: Path,
    architecture: Architecture,
    settings: DeclaredSettings,
    options: CoreMLOptions,
    approximations: Approximations = EXACT,
    progress: TellStage = lambda _: None,
) -> CoreMLPart:
    """WritePackages every package below `folder`/coreml and measure it.

    Args:
        source: what is exported.
        folder: of the unfinished bundle.
        architecture: shapes.
        settings: what the contract will say.
        options: how.
        approximations: of attention at the topmost level.
        progress: called with what begins.

    Raises:
        ExportError: a part does not convert, or a gate fails.
    """
    place = folder / FOLDER
    with _room(place):
        sizes = {"": architecture} | {
            f"_{size}": _resized(source, architecture, size, approximations)
            for size in (
                PictureSize.parse(written, "--coreml resolutions") for written in options.resolutions
            )
        }
        parts = {
            f"{name}{size}": part
            for size, shapes in sizes.items()
            for name, part in unet_modules(
                source.base, source.conditioned, shapes, options.attention, approximations
            ).items()
        }
        components = {
            f"{name}{size}": part
            for size, shapes in sizes.items()
            for name, part in component_modules(source.base, shapes).items()
            if not (size and name.startswith(("text_encoder", "segmenter")))
        }
        progress("Core ML: PyTorch's own trajectory")
        recording = record(source, architecture, approximations, parts, components)
        recording.save(place / FILE)
        recipe = None
        if options.weights == "mixed":
            recipe = find_recipe(place, parts, recording, architecture, options, progress)
        writers = _writers(place, parts, components, options, recipe, progress)
        # SDXL's second one has the same words.
        added = write_tokenizer(place, source.base.tokenizer)
        part = written_to_fit(folder, writers, options, recipe, architecture, recording, progress)
        guide = write_guide(
            part,
            architecture,
            settings.scheduler,
            settings.guidance,
            settings.vae,
            source.conditioned.config.cache_timestep,
            describe_text(architecture.text_length, settings.text, settings.text_2, added),
        )
        (place / "README.md").write_text(guide, encoding="utf-8")
    return part


def _writers(
    place: Path,
    parts: Mapping[str, CoreMLModule],
    components: Mapping[str, CoreMLModule],
    options: CoreMLOptions,
    recipe: WeightRecipe | None,
    progress: TellStage,
) -> dict[str, WritePackages]:
    """What writes each package, given the activations that stay in 32 bits."""

    def component(name: str, package: str) -> WritePackages:
        own = {graph: part for graph, part in components.items() if _graph_name(graph) == name}
        return lambda kept: write_component(place, package, own, options, kept, progress)

    written = {package: component(name, package) for name, package in PACKAGES.items() if name in components}
    return {UNET: lambda kept: write_unet(place, parts, options, recipe, kept, progress)} | written


def _graph_name(graph: str) -> str:
    """Without the size that graphs of further resolutions end in."""
    return graph if graph in PACKAGES else graph.rpartition("_")[0]


def _resized(
    source: Source, architecture: Architecture, size: PictureSize, approximations: Approximations
) -> Architecture:
    """The same at another resolution.

    Raises:
        ExportError: one that this base cannot take, or the bundle's own.
    """
    if size == PictureSize(architecture.image_width, architecture.image_height):
        raise ExportError(f"--coreml resolutions: {size} is the bundle's own; leave it out")
    return declare_architecture(
        source.name,
        source.base,
        source.conditioned,
        size,
        architecture.batch,
        approximations,
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
