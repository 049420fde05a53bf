"""Packages written again until every activation fits into 16 bits, then measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from dreamcache.export.coreml.checks.measure import (
    CoreMLParity,
    check_measured,
    measure_samples,
    measure_trajectory,
)
from dreamcache.export.coreml.checks.ranges import SENTINEL, overflowing
from dreamcache.export.coreml.checks.recording import FILE, Recording
from dreamcache.export.coreml.graph import Interpreted, open_coreml_graph
from dreamcache.export.coreml.mil.interpreter import Arithmetic
from dreamcache.export.coreml.packages import FOLDER, UNET, Packages
from dreamcache.export.coreml.weights.recipe import WeightRecipe
from dreamcache.export.errors import ExportError
from dreamcache.export.options import CoreMLOptions
from dreamcache.export.progress import TellStage
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.sessions.allocator import release_freed

WritePackages = Callable[[frozenset[str]], Packages]


def measure_part(
    folder: Path,
    part: CoreMLPart,
    architecture: Architecture,
    recording: Recording,
    arithmetic: Arithmetic,
) -> tuple[CoreMLParity, dict[str, float], Interpreted]:
    """Every graph of a part, run in PyTorch: along the trajectory, and on samples; and who ran them."""
    open_piece = Interpreted(arithmetic)
    opened = lambda name: open_coreml_graph(folder, part, name, open_piece)  # noqa: E731 (short, and passed twice)
    measured = measure_trajectory(opened, architecture, recording)
    release_freed()
    samples = measure_samples(opened, part, recording)
    release_freed()
    return measured, samples, open_piece


def written_to_fit(
    folder: Path,
    writers: Mapping[str, WritePackages],
    options: CoreMLOptions,
    recipe: WeightRecipe | None,
    architecture: Architecture,
    recording: Recording,
    progress: TellStage,
) -> CoreMLPart:
    """Write and observe; where something leaves the range of 16 bits, written again with it in 32."""
    kept: dict[str, frozenset[str]] = {}
    packages = {name: write(frozenset()) for name, write in writers.items()}
    while True:
        part = _declared(options, recipe, packages, kept)
        progress("Core ML: ranges of activations, comparison in 32 bits")
        exact, samples, observed = measure_part(folder, part, architecture, recording, "fp32")
        wide = _wide(packages, observed)
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
    check_measured(exact, samples, options.weights, "32 bits")
    progress("Core ML: comparing in 16 bits")
    rounded, rounded_samples, _ = measure_part(folder, part, architecture, recording, "fp16")
    check_measured(rounded, rounded_samples, options.weights, "16 bits")
    psnr = {**exact.psnr_db, **samples}
    psnr |= {f"{name} fp16": db for name, db in {**rounded.psnr_db, **rounded_samples}.items()}
    finite = [value for seen in observed.largest.values() for value in seen.values() if value < SENTINEL]
    update = {
        "psnr_db": psnr,
        "condition": rounded.condition,
        "trajectory_db": rounded.trajectory_db,
        "largest": max(finite),
    }
    return part.model_copy(update=update)


def _wide(packages: Mapping[str, Packages], observed: Interpreted) -> dict[str, frozenset[str]]:
    """Activations that leave the range of 16 bits, by writer."""
    found: dict[str, frozenset[str]] = {}
    for name, written in packages.items():
        places = {Path(model.package).name for model in written.models.values()}
        wide = {
            activation
            for (package, _), seen in observed.largest.items()
            if package.name in places
            for activation in overflowing(seen)
        }
        if wide:
            found[name] = frozenset(wide)
    return found


def _declared(
    options: CoreMLOptions,
    recipe: WeightRecipe | None,
    packages: Mapping[str, Packages],
    kept: Mapping[str, frozenset[str]],
) -> CoreMLPart:
    return CoreMLPart(
        target=options.target,
        attention=options.attention,
        weights=options.weights,
        layers={} if recipe is None else dict(recipe.formats),
        models={name: model for written in packages.values() for name, model in written.models.items()},
        graphs={name: pieces for written in packages.values() for name, pieces in written.graphs.items()},
        recording=f"{FOLDER}/{FILE}",
        disk_ratio=packages[UNET].disk_ratio,
        kept_in_fp32=tuple(f"{name}/{one}" for name in sorted(kept) for one in sorted(kept[name])),
    )
