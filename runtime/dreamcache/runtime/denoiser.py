"""The denoiser graph behind a plain call: any number of latents and branches through its fixed batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.contract import Architecture, cache_tensors
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.guidance import Branch
from dreamcache.runtime.sessions import GraphSession

Latent = NDArray[np.float32]


class Denoiser:
    """Predicts noise or v for guidance branches.

    cache: per site keys and values, [1, tokens, width], shared by every row; None for no reference.
    texts: prompt embeddings [1, n, c] under the names that branches use.
    """

    def __init__(
        self,
        graph: GraphSession,
        architecture: Architecture,
        texts: Mapping[str, NDArray[Any]],
        cache: Mapping[str, NDArray[Any]] | None,
    ) -> None:
        self._graph = graph
        self._batch = architecture.batch
        self._texts = texts
        # Without a reference the strength is 0, and what stands here is multiplied away.
        self._cache = {
            spec.name: np.zeros(spec.shape, spec.dtype) if cache is None else cache[spec.name]
            for spec in cache_tensors(architecture)
        }

    def predict(self, latent: Latent, timestep: float, branches: Sequence[Branch]) -> list[Latent]:
        """One prediction [n, z, h, w] per branch, for latents [n, z, h, w] at one training timestep.

        Rows (branch by branch, image by image) fill the graph's batch; the last batch is padded with
        repetitions whose predictions are dropped.
        Raises: BundleError when a prediction is not finite.
        """
        rows = [(branch, image) for branch in branches for image in range(len(latent))]
        predicted = np.concatenate(
            [
                self._run(latent, timestep, rows[start : start + self._batch])
                for start in range(0, len(rows), self._batch)
            ]
        )
        if not np.isfinite(predicted).all():
            raise BundleError(
                f"the denoiser predicts NaN or infinite values at timestep {timestep:g}; "
                "`dreamcache verify` says whether its weights are sound"
            )
        return list(predicted.reshape(len(branches), *latent.shape))

    def _run(self, latent: Latent, timestep: float, rows: Sequence[tuple[Branch, int]]) -> Latent:
        filled = [*rows, *[rows[-1]] * (self._batch - len(rows))]
        outputs = self._graph.run(
            {
                "latent": latent[[image for _, image in filled]],
                "timestep": np.full(self._batch, timestep, np.float32),
                "text": np.concatenate([self._texts[branch.text] for branch, _ in filled]),
                "reference_strength": np.array([branch.strength for branch, _ in filled], np.float32),
                **self._cache,
            }
        )
        prediction: Latent = outputs["prediction"][: len(rows)].astype(np.float32)
        return prediction
