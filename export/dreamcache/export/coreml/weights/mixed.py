"""A number of bits for each weight: as few as a target allows, found by what each costs the denoiser's prediction.

One weight at a time is stored in 4 bits and the saved program run at recorded points; what other formats of it would
cost follows from how much less they move the weight, since small errors add up and scale (the reasoning of mixed-bit
palettes in apple/ml-stable-diffusion, which tries every format). Then bits go where they save most error for a byte,
until the target holds for all weights together, measured with the caching graph stored alike, and the effects of
reference and text are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.coreml.checks.recording import Recording
from dreamcache.export.coreml.convert import convert_graph
from dreamcache.export.coreml.modules import CoreMLModule
from dreamcache.export.coreml.weights.allocation import FormatCost, allocate, allocate_within
from dreamcache.export.coreml.weights.recipe import WeightRecipe
from dreamcache.export.coreml.weights.rounding import rounded, stored_bytes
from dreamcache.export.coreml.weights.trial import WeightTrial
from dreamcache.export.errors import ExportError
from dreamcache.export.options import WEIGHT_FORMATS, CoreMLOptions, WeightFormat
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.parity import CONDITION_TOLERANCE

Array = NDArray[np.float32]
Formats = dict[str, WeightFormat]

_PROBE: WeightFormat = "palette4"
_TRIES = 8
_SHARE = 0.5
"""Share of a gate's tolerance on the condition that the trial may take; the gate has a second reference and 16 bits."""


def find_recipe(
    work: Path,
    parts: Mapping[str, CoreMLModule],
    recording: Recording,
    architecture: Architecture,
    options: CoreMLOptions,
    progress: Callable[[str], None],
) -> WeightRecipe:
    """A format for each weight of the denoiser, and of the caching graph where it has the same.

    Args:
        work: a folder for the packages that are tried on.
        parts: ``cache`` and ``denoise``.
        recording: PyTorch's trajectory.
        architecture: shapes.
        options: with the target that must hold.
        progress: told how far it is.

    Raises:
        ExportError: no recipe meets the target and keeps the condition.
    """
    with TemporaryDirectory(prefix="trial-", dir=work) as folder:
        packages = {name: Path(folder) / f"{name}.mlpackage" for name in ("cache", "denoise")}
        for name, package in packages.items():
            progress(f"Core ML: {name}, to try weights on")
            part = parts[name]
            convert_graph(part.module, part.inputs, part.outputs, package, target=options.target)
        return Sensitivities(packages, parts["denoise"], recording, architecture, progress).recipe(options)


class Sensitivities:
    """What every format of every weight of a saved denoiser costs its prediction.

    Args:
        packages: ``cache`` and ``denoise`` with exact weights; must stay.
        part: the denoiser.
        recording, architecture, progress: see `find_recipe`.
    """

    def __init__(
        self,
        packages: Mapping[str, Path],
        part: CoreMLModule,
        recording: Recording,
        architecture: Architecture,
        progress: Callable[[str], None],
    ) -> None:
        self._trial = trial = WeightTrial(
            packages["cache"], packages["denoise"], part, recording, architecture
        )
        self._costs: list[_Cost] = []
        for index, name in enumerate(trial.names):
            progress(f"Core ML: sensitivity of weight {index + 1} of {len(trial.names)}")
            probed = trial.error({name: _PROBE}) - trial.floor
            self._costs.append(_Cost(name, trial.weight(name), probed))

    def recipe(self, options: CoreMLOptions) -> WeightRecipe:
        """The fewest bytes that meet a target, or the least error in a number of bytes.

        Raises:
            ExportError: nothing does, or the condition is lost.
        """
        formats = _solve(self._costs, self._trial, options)
        return WeightRecipe(formats, self._trial.by_content(formats))


class _Cost:
    """Every format of one weight."""

    def __init__(self, name: str, value: Array, probed: float) -> None:
        self.name = name
        moved = {kind: _moved(value, kind) for kind in WEIGHT_FORMATS}
        scale = max(probed, 0.0) / moved[_PROBE] if moved[_PROBE] else 0.0
        self.formats = {
            kind: FormatCost(kind, stored_bytes(value.shape, kind), scale * moved[kind])
            for kind in WEIGHT_FORMATS
        }


def _solve(costs: list[_Cost], trial: WeightTrial, options: CoreMLOptions) -> Formats:
    """Choose, try all weights together, and ask for more where that falls short."""
    asked, found_db, worst = options.psnr_db or 0.0, 0.0, 0.0
    formats = [cost.formats for cost in costs]
    for _ in range(_TRIES):
        if options.size_mb is not None:
            limit = 1e6 * options.size_mb - trial.other_bytes
            chosen = allocate_within(formats, limit)
        else:
            allowed = trial.power / 10 ** (asked / 10)
            chosen = allocate(formats, lambda error, _: error <= allowed)  # noqa: B023 (called at once)
        recipe = {cost.name: step.format for cost, step in zip(costs, chosen, strict=True)}
        found_db, worst = trial.measure(recipe, options.default_format)
        kept = worst <= _SHARE * CONDITION_TOLERANCE
        if kept and found_db >= (options.psnr_db or 0.0):
            return recipe
        if options.size_mb is not None:
            break
        asked += max((options.psnr_db or 0.0) - found_db, 0.5 if kept else 3.0)
    bound = f"{options.size_mb:g} MB" if options.size_mb is not None else f"{options.psnr_db:g} dB"
    raise ExportError(
        f"--coreml weights=mixed: no recipe for {bound}; the last one had {found_db:.1f} dB and moved the effect of "
        f"reference or text by {worst:.1%}"
    )


def _moved(value: Array, kind: WeightFormat) -> float:
    return float(np.square(rounded(value, kind) - value).sum())
