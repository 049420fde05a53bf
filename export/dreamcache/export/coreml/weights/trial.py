"""The saved denoiser at recorded points, with some of its weights rounded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.coreml.checks.recording import Recording
from dreamcache.export.coreml.convert import coreml_name
from dreamcache.export.coreml.graph import saved_function
from dreamcache.export.coreml.mil.interpreter import Interpreter
from dreamcache.export.coreml.modules import CoreMLModule
from dreamcache.export.coreml.weights.compress import LEAST_VALUES
from dreamcache.export.coreml.weights.rounding import rounded, stored_bytes
from dreamcache.export.options import WeightFormat
from dreamcache.export.parity.torch_reference import BRANCHES, FULL, NULL, STOCK, Point
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.parity import MAX_DB, psnr_db
from dreamcache.runtime.sampling.guidance import Branch

Array = NDArray[np.float32]


class DenoiserTrial:
    """The saved denoiser, at recorded points, with some of its weights rounded."""

    def __init__(
        self, package: Path, part: CoreMLModule, recording: Recording, architecture: Architecture
    ) -> None:
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

    def measure(self, recipe: Mapping[str, WeightFormat]) -> tuple[float, float]:
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
            **{
                name: np.repeat(value, self._batch, 0)
                for name, value in self._recording.embeddings[branch.text].items()
            },
            "reference_strength": np.full(self._batch, branch.strength, np.float32),
        } | {coreml_name(name): value for name, value in self._cache.items()}
        return self._interpreter.run({name: rows[name] for name in self._inputs})["prediction"][:1]
