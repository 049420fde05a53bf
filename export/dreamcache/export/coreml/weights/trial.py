"""The saved graphs at recorded points, with some of their weights rounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
from dreamcache.export.coreml.weights.recipe import digests
from dreamcache.export.coreml.weights.rounding import rounded, stored_bytes
from dreamcache.export.options import WeightFormat
from dreamcache.export.parity.torch_reference import BRANCHES, FULL, NULL, STOCK, Point
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.parity import MAX_DB, psnr_db
from dreamcache.runtime.sampling.guidance import Branch

Array = NDArray[np.float32]


class RoundableGraph:
    """A saved program that runs in fp32, some of whose weights can be rounded for a while.

    Attributes:
        contents: SHA-256 of every weight that is worth compressing, by name.
    """

    def __init__(self, package: Path) -> None:
        function = saved_function(package, "main")
        self._interpreter = Interpreter(function)
        self.names = self._interpreter.weights(LEAST_VALUES)
        self.contents = digests(function)
        self.run = self._interpreter.run

    def weight(self, name: str) -> Array:
        """One of `names`."""
        return self._interpreter.weight(name)

    @contextmanager
    def rounded(self, recipe: Mapping[str, WeightFormat]) -> Iterator[None]:
        """With these weights in these formats; exact again afterwards."""
        exact = {name: self.weight(name) for name in recipe}
        try:
            for name, kind in recipe.items():
                self._interpreter.replace_weight(name, rounded(exact[name], kind))
            yield
        finally:
            for name, value in exact.items():
                self._interpreter.replace_weight(name, value)


class WeightTrial:
    """Caching graph and denoiser, at recorded points, with some of their weights rounded.

    Args:
        caching, denoiser: packages with exact weights.
        part: the denoiser, with the order of its inputs.
        recording: PyTorch's trajectory.
        architecture: shapes.

    Attributes:
        names: the denoiser's weights.
        other_bytes: what the denoiser stores beside them.
        power: squared peak of the predictions that `error` sums over, times their number of values.
        floor: `error` of the exact weights.
    """

    def __init__(
        self,
        caching: Path,
        denoiser: Path,
        part: CoreMLModule,
        recording: Recording,
        architecture: Architecture,
    ) -> None:
        self._caching = RoundableGraph(caching)
        self._denoiser = RoundableGraph(denoiser)
        self.names = self._denoiser.names
        self._inputs = [coreml_name(spec.name) for spec in part.inputs]
        self._recording = recording
        self._ends = [recording.points[0], recording.points[-1]][: len(recording.points)]
        self._batch = architecture.batch
        stored = sum(path.stat().st_size for path in denoiser.rglob("weight.bin"))
        self.other_bytes = stored - sum(stored_bytes(self.weight(name).shape, "fp16") for name in self.names)
        peaks = [np.abs(point.predictions[FULL]) for point in self._ends]
        self.power = sum(float(value.max()) ** 2 * value.size for value in peaks)
        self.floor = self.error({})

    def weight(self, name: str) -> Array:
        """One of `names`."""
        return self._denoiser.weight(name)

    def error(self, recipe: Mapping[str, WeightFormat]) -> float:
        """Squared error of the first and the last prediction, on PyTorch's cached features."""
        cache = self._recording.references[0].projected
        with self._denoiser.rounded(recipe):
            return sum(
                float(np.square(self._predict(point, FULL, cache) - point.predictions[FULL]).sum())
                for point in self._ends
            )

    def measure(self, recipe: Mapping[str, WeightFormat], default: WeightFormat) -> tuple[float, float]:
        """What an app would get: both graphs rounded, the denoiser on features that the rounded caching graph made.

        Args:
            recipe: formats of the denoiser's weights.
            default: of weights that the caching graph alone has.

        Returns:
            The worst dB of any point and branch, and how far the effect of reference or text is from PyTorch's,
            relatively.
        """
        reference = self._recording.references[0]
        with self._caching.rounded(self._of_caching(recipe, default)):
            cache = self._caching.run({"latent": reference.latent})
        worst_db, effects = MAX_DB, {STOCK: [0.0, 0.0], NULL: [0.0, 0.0]}
        with self._denoiser.rounded(recipe):
            for point in self._recording.points:
                expected = point.predictions
                found = {branch: self._predict(point, branch, cache) for branch in BRANCHES}
                worst_db = min(worst_db, *(psnr_db(expected[branch], found[branch]) for branch in BRANCHES))
                for without, sums in effects.items():
                    sums[0] += float(np.linalg.norm(found[FULL] - found[without]))
                    sums[1] += float(np.linalg.norm(expected[FULL] - expected[without]))
        return worst_db, max(abs(ours / theirs - 1) for ours, theirs in effects.values())

    def by_content(self, recipe: Mapping[str, WeightFormat]) -> dict[str, WeightFormat]:
        """The formats of a recipe by the SHA-256 of the weights."""
        return {self._denoiser.contents[name]: kind for name, kind in recipe.items()}

    def _of_caching(
        self, recipe: Mapping[str, WeightFormat], default: WeightFormat
    ) -> dict[str, WeightFormat]:
        """Formats of the caching graph's weights, most of which are the denoiser's under other names."""
        kinds = self.by_content(recipe)
        return {name: kinds.get(content, default) for name, content in self._caching.contents.items()}

    def _predict(self, point: Point, branch: Branch, cache: Mapping[str, Array]) -> Array:
        rows: dict[str, Any] = {
            "latent": np.repeat(point.latent, self._batch, 0),
            "timestep": np.full(self._batch, point.timestep, np.float32),
            **{
                name: np.repeat(value, self._batch, 0)
                for name, value in self._recording.embeddings[branch.text].items()
            },
            "reference_strength": np.full(self._batch, branch.strength, np.float32),
        } | {coreml_name(name): value for name, value in cache.items()}
        return self._denoiser.run({name: rows[name] for name in self._inputs})["prediction"][:1]
