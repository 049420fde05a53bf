"""Caching graph and denoiser compared with PyTorch, in any engine, along a real trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.parity.gates import Finding
from dreamcache.export.parity.torch_reference import BRANCHES, FULL, GUIDING, NULL, STOCK, Point, Reference
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.parity import MAX_DB, psnr_db
from dreamcache.runtime.sampling.denoiser import Conditioning, Denoiser
from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.sessions.session import RunnableGraph
from dreamcache.runtime.subject import join_tokens

Array = NDArray[np.float32]
OpenUnet = Callable[[str], RunnableGraph]


class TrajectoryOrigin(Protocol):
    """Where a trajectory came from: `TorchModel`, or a recording of it."""

    @property
    def embeddings(self) -> Mapping[str, Conditioning]: ...

    def advance(self, latent: Array, timestep: int, predictions: Mapping[Branch, Array]) -> Array: ...


@dataclass(frozen=True)
class UnetParity:
    """What the UNet's graphs gave.

    Attributes:
        cache_db: the worst of any key or value.
        findings: of every point that has all branches.
        trajectory_db: the latent after each step.
        shallow: dB of the shallow graph at the first point, prompt and reference; None without that graph.
        together: dB of the denoiser that reads two references at the first point; None where it reads one.
    """

    cache_db: float
    findings: list[Finding]
    trajectory_db: list[float]
    shallow: float | None
    together: float | None = None

    @property
    def denoiser_db(self) -> float:
        """The worst of any prediction."""
        return min(finding["psnr"] for finding in self.findings)


def measure_unet(
    open_graph: OpenUnet,
    architecture: Architecture,
    origin: TrajectoryOrigin,
    references: Sequence[Reference],
    points: Sequence[Point],
    *,
    shallow: bool = False,
    together: tuple[int, Array] | None = None,
) -> UnetParity:
    """Compare both graphs with PyTorch, through the runner's own code.

    Args:
        open_graph: gives ``cache``, ``denoiser`` and ``shallow``; what it gave may go when the next is asked for, but
            for the denoiser, which the shallow graph needs.
        architecture: shapes and sites.
        origin: for its texts and its sampler.
        references: two; the second one takes the first one's place.
        points: of PyTorch's trajectory with the first reference.
        shallow: whether there is a shallow graph.
        together: the reference to read with the first one, and what PyTorch predicts of both at the first point.
    """
    texts = origin.embeddings
    caches, cache_db = _caches(open_graph("cache"), references)
    graph = open_graph("denoiser")
    shallow_graph = open_graph("shallow") if shallow else None
    # Every second step may then be asked of the shallow graph.
    own = Denoiser(graph, architecture, texts, caches[0], shallow_graph, 2 if shallow else 1)
    swapped, zeroed = (
        Denoiser(graph, architecture, texts, cache)
        for cache in (caches[1], {name: np.zeros_like(value) for name, value in caches[0].items()})
    )
    compared = [point for point in points if len(point.predictions) == len(BRANCHES)]
    received: list[dict[Branch, Array]] = []
    shallow_db = None
    for point in compared:
        predictions = own.predict(point.latent, float(point.timestep), BRANCHES)
        received.append(dict(zip(BRANCHES, predictions, strict=True)))
        if shallow and shallow_db is None:
            (prediction,) = own.predict(point.latent, float(point.timestep), (FULL,), step=1)
            shallow_db = psnr_db(point.predictions[FULL], prediction)
    findings = [
        _at(point, predictions, swapped, zeroed)
        for point, predictions in zip(compared, received, strict=True)
    ]
    latent, trajectory_db = points[0].latent, []
    for index, point in enumerate(points):
        # The first step starts from the same noise, so its predictions are there already.
        guiding = (
            [received[0][branch] for branch in GUIDING]
            if index == 0
            else own.predict(latent, float(point.timestep), GUIDING)
        )
        latent = origin.advance(latent, point.timestep, dict(zip(GUIDING, guiding, strict=True)))
        trajectory_db.append(psnr_db(point.after, latent))
    together_db = None
    if together is not None:
        second, expected = together
        both = Denoiser(graph, architecture, texts, join_tokens([caches[0], caches[second]]))
        (prediction,) = both.predict(points[0].latent, float(points[0].timestep), (FULL,))
        together_db = psnr_db(expected, prediction)
    return UnetParity(cache_db, findings, trajectory_db, shallow_db, together_db)


def _at(point: Point, received: Mapping[Branch, Array], swapped: Denoiser, zeroed: Denoiser) -> Finding:
    """Everything that is compared at one point of the trajectory."""
    latent, timestep, expected = point.latent, float(point.timestep), point.predictions
    pairs = [(expected[branch], received[branch]) for branch in BRANCHES]
    return {
        "psnr": min(psnr_db(e, r) for e, r in pairs),
        "error": max(_norm(e - r) for e, r in pairs),
        "torch_reference": _norm(expected[FULL] - expected[STOCK]),
        "onnx_reference": _norm(received[FULL] - received[STOCK]),
        "torch_text": _norm(expected[FULL] - expected[NULL]),
        "onnx_text": _norm(received[FULL] - received[NULL]),
        "stock_psnr": psnr_db(expected[STOCK], received[STOCK]),
        "stock_leak": float(np.abs(swapped.predict(latent, timestep, (STOCK,))[0] - received[STOCK]).max()),
        "zeroed": _norm(zeroed.predict(latent, timestep, (FULL,))[0] - received[FULL]),
        "swapped": _norm(swapped.predict(latent, timestep, (FULL,))[0] - received[FULL]),
    }


def _caches(graph: RunnableGraph, references: Sequence[Reference]) -> tuple[list[dict[str, Array]], float]:
    """The exported caches of every reference, and the worst dB of any key or value."""
    caches = [graph.run({"latent": reference.latent}) for reference in references]
    worst = min(
        (
            psnr_db(expected, cache[name])
            for reference, cache in zip(references, caches, strict=True)
            for name, expected in reference.projected.items()
        ),
        default=MAX_DB,
    )
    return caches, worst


def _norm(array: NDArray[Any]) -> float:
    return float(np.linalg.norm(array.astype(np.float64)))
