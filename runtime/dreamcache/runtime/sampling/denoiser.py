"""The denoiser graph behind a plain call: any number of latents and branches through its fixed batch.

With step caching (DeepCache, Ma et al. 2023, arXiv 2312.00858) the whole graph runs at every K-th step, from the
first one on, and hands on its deep features; at the steps between, the shallow graph computes the outermost
layers alone and takes the rest from there. Each branch of the guidance has deep features of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import Architecture, cache_tensors
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.sessions.session import RunnableGraph

Latent = NDArray[np.float32]
Conditioning = Mapping[str, NDArray[Any]]
"""What the denoiser reads of a prompt, by input: `text` [1, n, c]; for SDXL `text_embeds` [1, p], `time_ids` [1, 6]."""
Row = tuple[Branch, int]
"""One prediction: which branch, for which picture."""


class Denoiser:
    """Predicts noise or v for guidance branches.

    cache: per site keys and values, [1, tokens, width], shared by every row; None for no reference. Tokens of one
    reference, or of several where the graph takes them.
    texts: what is read of prompts, under the names that branches use. shallow: the graph of step caching.
    step_cache: steps per run of the whole graph; above 1 needs the shallow one.
    """

    def __init__(
        self,
        graph: RunnableGraph,
        architecture: Architecture,
        texts: Mapping[str, Conditioning],
        cache: Mapping[str, NDArray[Any]] | None,
        shallow: RunnableGraph | None = None,
        step_cache: int = 1,
    ) -> None:
        assert step_cache == 1 or shallow is not None
        self._graph = graph
        self._shallow = shallow
        self._step_cache = step_cache
        self._batch = architecture.batch
        self._texts = texts
        self._deep: dict[Row, NDArray[Any]] = {}
        self.has_reference = cache is not None
        # Without a reference the strength is 0, and these values are multiplied by it.
        self._cache = {
            spec.name: np.zeros(spec.shape, spec.dtype) if cache is None else cache[spec.name]
            for spec in cache_tensors(architecture)
        }

    def predict(
        self, latent: Latent, timestep: float, branches: Sequence[Branch], step: int = 0
    ) -> list[Latent]:
        """One prediction [n, z, h, w] per branch, for latents [n, z, h, w] at one training timestep.

        step: index of the denoising step, from 0. Rows (branch by branch, image by image) fill the graph's
        batch; the last batch is padded with repetitions whose predictions are dropped.
        Raises: BundleError when a prediction is not finite.
        """
        rows = [(branch, image) for branch in branches for image in range(len(latent))]
        # A branch that guidance takes up between two whole steps has no deep features yet.
        whole = step % self._step_cache == 0 or any(row not in self._deep for row in rows)
        if whole:
            self._deep.clear()
        run = self._run_whole if whole else self._run_shallow
        predicted = np.concatenate(
            [
                run(latent, timestep, rows[start : start + self._batch])
                for start in range(0, len(rows), self._batch)
            ]
        )
        if not np.isfinite(predicted).all():
            raise BundleError(
                f"the denoiser predicts NaN or infinite values at timestep {timestep:g}; "
                "`dreamcache verify` checks its weights"
            )
        return list(predicted.reshape(len(branches), *latent.shape))

    def _run_whole(self, latent: Latent, timestep: float, rows: Sequence[Row]) -> Latent:
        keep = self._step_cache > 1
        wanted = ("prediction", "deep") if keep else ("prediction",)
        outputs = self._graph.run(self._inputs(latent, timestep, self._filled(rows)), wanted)
        if keep:
            self._deep.update({row: outputs["deep"][index].copy() for index, row in enumerate(rows)})
        return _predicted(outputs, rows)

    def _run_shallow(self, latent: Latent, timestep: float, rows: Sequence[Row]) -> Latent:
        assert self._shallow is not None
        filled = self._filled(rows)
        inputs = self._inputs(latent, timestep, filled)
        inputs["deep"] = np.stack([self._deep[row] for row in filled])
        return _predicted(self._shallow.run(inputs), rows)

    def _filled(self, rows: Sequence[Row]) -> list[Row]:
        return [*rows, *[rows[-1]] * (self._batch - len(rows))]

    def _inputs(self, latent: Latent, timestep: float, filled: Sequence[Row]) -> dict[str, NDArray[Any]]:
        return {
            "latent": latent[[image for _, image in filled]],
            "timestep": np.full(self._batch, timestep, np.float32),
            **{
                name: np.concatenate([self._texts[branch.text][name] for branch, _ in filled])
                for name in self._texts[filled[0][0].text]
            },
            "reference_strength": np.array([branch.strength for branch, _ in filled], np.float32),
            **self._cache,
        }


def _predicted(outputs: Mapping[str, NDArray[Any]], rows: Sequence[Row]) -> Latent:
    prediction: Latent = outputs["prediction"][: len(rows)].astype(np.float32)
    return prediction
