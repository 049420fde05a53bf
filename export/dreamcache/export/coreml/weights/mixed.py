"""A number of bits for each weight: as few as a target allows, found by what each costs the denoiser's prediction.

One weight at a time is stored in 4 bits and the saved program run at recorded points; what other formats of it would
cost follows from how much less they move the weight, since small errors add up and scale (the reasoning of mixed-bit
palettes in apple/ml-stable-diffusion, which tries every format). Then bits go where they save most error for a byte,
until the target holds for all weights together, measured, and the effects of reference and text are PyTorch's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.coreml.checks.recording import Recording
from dreamcache.export.coreml.convert import convert_graph, coreml_name
from dreamcache.export.coreml.graph import saved_function
from dreamcache.export.coreml.mil.interpreter import Interpreter
from dreamcache.export.coreml.modules import Part
from dreamcache.export.coreml.options import FORMATS, Choices, WeightFormat
from dreamcache.export.coreml.weights.compress import LEAST_VALUES
from dreamcache.export.coreml.weights.recipe import Recipe, digests
from dreamcache.export.coreml.weights.rounding import rounded, stored_bytes
from dreamcache.export.errors import ExportError
from dreamcache.export.parity.gates import CONDITION_TOLERANCE, MAX_DB, psnr_db
from dreamcache.export.parity.torch_reference import BRANCHES, FULL, NULL, STOCK, Point
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.sampling.guidance import Branch

Array = NDArray[np.float32]
Formats = dict[str, WeightFormat]

_PROBE: WeightFormat = "palette4"
_TRIES = 8
_OWN_SHARE = 0.5
"""Of what a gate allows, for the denoiser alone: the caching graph, stored alike, moves the effect as well."""


def find_recipe(
    work: Path,
    part: Part,
    recording: Recording,
    architecture: Architecture,
    choices: Choices,
    progress: Callable[[str], None],
) -> Recipe:
    """A format for each weight of the denoiser, and of the caching graph where it has the same.

    Args:
        work: a folder for the package that is tried on.
        part: the denoiser.
        recording: PyTorch's trajectory.
        architecture: shapes.
        choices: with the target that must hold.
        progress: told how far it is.

    Raises:
        ExportError: no recipe meets the target and keeps the condition.
    """
    package = work / "exact.mlpackage"
    progress("Core ML: the denoiser to try weights on")
    convert_graph(part.module, part.inputs, part.outputs, package, target=choices.target)
    try:
        return Sensitivities(package, part, recording, architecture, progress).recipe(choices)
    finally:
        shutil.rmtree(package)


class Sensitivities:
    """What every format of every weight of a saved denoiser costs its prediction.

    Args:
        package: the denoiser with exact weights; must stay.
        part, recording, architecture, progress: see `find_recipe`.
    """

    def __init__(
        self,
        package: Path,
        part: Part,
        recording: Recording,
        architecture: Architecture,
        progress: Callable[[str], None],
    ) -> None:
        self._package = package
        self._trial = trial = _Trial(package, part, recording, architecture)
        self._costs: list[_Cost] = []
        for index, name in enumerate(trial.names):
            progress(f"Core ML: sensitivity of weight {index + 1} of {len(trial.names)}")
            probed = trial.error({name: _PROBE}, (FULL,)) - trial.floor
            self._costs.append(_Cost(name, trial.weight(name), probed))

    def recipe(self, choices: Choices) -> Recipe:
        """The fewest bytes that meet a target, or the least error in so many.

        Raises:
            ExportError: nothing does, or the condition is lost.
        """
        formats = _solve(self._costs, self._trial, choices)
        stored = digests(saved_function(self._package, "main"))
        return Recipe(formats, {stored[name]: kind for name, kind in formats.items()})


@dataclass(frozen=True)
class Step:
    """What a format of one weight costs. error: squared, of the prediction."""

    format: WeightFormat
    bytes: float
    error: float


class _Cost:
    """Every format of one weight."""

    def __init__(self, name: str, value: Array, probed: float) -> None:
        self.name = name
        moved = {kind: _moved(value, kind) for kind in FORMATS}
        scale = max(probed, 0.0) / moved[_PROBE] if moved[_PROBE] else 0.0
        self.steps = {
            kind: Step(kind, stored_bytes(value.shape, kind), scale * moved[kind]) for kind in FORMATS
        }


def choose(
    costs: Iterable[Mapping[WeightFormat, Step]], enough: Callable[[float, float], bool]
) -> list[Step]:
    """Start everything at the fewest bytes and upgrade where an added byte saves most error, until it is `enough`.

    Args:
        costs: of each weight, every format.
        enough: of the sum of errors and the sum of bytes.
    """
    options = [sorted(steps.values(), key=lambda step: step.bytes) for steps in costs]
    chosen = [0] * len(options)
    error = sum(steps[0].error for steps in options)
    size = sum(steps[0].bytes for steps in options)
    while not enough(error, size):
        best, gain = None, 0.0
        for index, steps in enumerate(options):
            now = steps[chosen[index]]
            for further in range(chosen[index] + 1, len(steps)):
                rate = (now.error - steps[further].error) / (steps[further].bytes - now.bytes)
                if rate > gain:
                    best, gain = (index, further), rate
        if best is None:
            break
        index, further = best
        error += options[index][further].error - options[index][chosen[index]].error
        size += options[index][further].bytes - options[index][chosen[index]].bytes
        chosen[index] = further
    return [steps[index] for steps, index in zip(options, chosen, strict=True)]


def _solve(costs: list[_Cost], trial: _Trial, choices: Choices) -> Formats:
    """Choose, try all weights together, and ask for more where that falls short."""
    asked, found_db, worst = choices.least_db or 0.0, 0.0, 0.0
    options = [cost.steps for cost in costs]
    for _ in range(_TRIES):
        if choices.most_mb is not None:
            limit = 1e6 * choices.most_mb - trial.other_bytes
            chosen = _within(options, limit)
        else:
            allowed = trial.power / 10 ** (asked / 10)
            chosen = choose(options, lambda error, _: error <= allowed)  # noqa: B023 (called at once)
        recipe = {cost.name: step.format for cost, step in zip(costs, chosen, strict=True)}
        found_db, worst = trial.judge(recipe)
        kept = worst <= _OWN_SHARE * CONDITION_TOLERANCE
        if kept and found_db >= (choices.least_db or 0.0):
            return recipe
        if choices.most_mb is not None:
            break
        asked += max((choices.least_db or 0.0) - found_db, 0.5 if kept else 3.0)
    bound = f"{choices.most_mb:g} MB" if choices.most_mb is not None else f"{choices.least_db:g} dB"
    raise ExportError(
        f"--coreml-weights mixed: no recipe for {bound}; the last one had {found_db:.1f} dB and moved the effect of "
        f"reference or text by {worst:.1%}"
    )


def _within(options: list[dict[WeightFormat, Step]], limit: float) -> list[Step]:
    """The least error in at most `limit` bytes."""
    smallest = sum(min(step.bytes for step in steps.values()) for steps in options)
    if smallest > limit:
        raise ExportError(
            f"--coreml-size: the weights take {smallest / 1e6:.1f} MB in 4 bits, "
            f"at most {max(limit, 0) / 1e6:.1f} are left for them"
        )
    # Upgrades differ in size: the greatest error bound whose choice fits.
    low, high = -20.0, 140.0
    total = sum(max(step.error for step in steps.values()) for steps in options)
    best = choose(options, lambda *_: True)
    for _ in range(40):
        middle = (low + high) / 2
        chosen = choose(options, lambda error, _: error <= total / 10 ** (middle / 10))  # noqa: B023 (called at once)
        if sum(step.bytes for step in chosen) <= limit:
            best, low = chosen, middle
        else:
            high = middle
    return best


class _Trial:
    """The saved denoiser, at recorded points, with some of its weights rounded."""

    def __init__(self, package: Path, part: Part, recording: Recording, architecture: Architecture) -> None:
        self._interpreter = Interpreter(saved_function(package, "main"))
        self.names = self._interpreter.weights(LEAST_VALUES)
        self._inputs = [coreml_name(spec.name) for spec in part.inputs]
        self._recording = recording
        self._points = [recording.points[0], recording.points[-1]][: len(recording.points)]
        self._cache = recording.references[0].projected
        self._batch = architecture.batch
        self._exact: dict[str, Array] = {}
        stored = sum(path.stat().st_size for path in package.rglob("weight.bin"))
        self.other_bytes = stored - sum(stored_bytes(self.weight(name).shape, "fp16") for name in self.names)
        peaks = [np.abs(self._expected(point, FULL)) for point in self._points]
        self.power = sum(float(value.max()) ** 2 * value.size for value in peaks)
        self.floor = self.error({}, (FULL,))

    def weight(self, name: str) -> Array:
        """One of `names`."""
        return self._interpreter.weight(name)

    def error(self, recipe: Mapping[str, WeightFormat], branches: tuple[Branch, ...]) -> float:
        """Squared error of the predictions, summed over points and branches."""
        self._round(recipe)
        try:
            return sum(
                float(np.square(self._predict(point, branch) - self._expected(point, branch)).sum())
                for point in self._points
                for branch in branches
            )
        finally:
            self._restore()

    def judge(self, recipe: Mapping[str, WeightFormat]) -> tuple[float, float]:
        """The worst dB of any branch, and how far the effect of reference or text is from PyTorch's, relatively."""
        self._round(recipe)
        try:
            worst_db, effects = MAX_DB, {STOCK: [0.0, 0.0], NULL: [0.0, 0.0]}
            for point in self._points:
                found = {branch: self._predict(point, branch) for branch in BRANCHES}
                for branch in BRANCHES:
                    worst_db = min(worst_db, psnr_db(self._expected(point, branch), found[branch]))
                for without, sums in effects.items():
                    sums[0] += float(np.linalg.norm(found[FULL] - found[without]))
                    sums[1] += float(
                        np.linalg.norm(self._expected(point, FULL) - self._expected(point, without))
                    )
            return worst_db, max(abs(ours / theirs - 1) for ours, theirs in effects.values())
        finally:
            self._restore()

    def _round(self, recipe: Mapping[str, WeightFormat]) -> None:
        self._exact = {name: self.weight(name) for name in recipe}
        for name, kind in recipe.items():
            self._interpreter.replace_weight(name, rounded(self._exact[name], kind))

    def _restore(self) -> None:
        for name, value in self._exact.items():
            self._interpreter.replace_weight(name, value)
        self._exact = {}

    def _expected(self, point: Point, branch: Branch) -> Array:
        return point.predictions[branch]

    def _predict(self, point: Point, branch: Branch) -> Array:
        rows: dict[str, Any] = {
            "latent": np.repeat(point.latent, self._batch, 0),
            "timestep": np.full(self._batch, point.timestep, np.float32),
            "text": np.repeat(self._recording.embeddings[branch.text], self._batch, 0),
            "reference_strength": np.full(self._batch, branch.strength, np.float32),
        } | {coreml_name(name): value for name, value in self._cache.items()}
        return self._interpreter.run({name: rows[name] for name in self._inputs})["prediction"][:1]


def _moved(value: Array, kind: WeightFormat) -> float:
    return float(np.square(rounded(value, kind) - value).sum())
