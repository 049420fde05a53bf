"""Does this device compute what PyTorch computed? Each graph on its golden inputs, and the effect of the conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import Precision
from dreamcache.runtime.bundle.golden import NULL, STOCK, GoldenCase, read_golden, take_sample
from dreamcache.runtime.bundle.parity import (
    CONDITION_TOLERANCE,
    EIGHT_BITS,
    MIN_DEVICE_PSNR_DB,
    MIN_FP16_PSNR_DB,
    psnr_db,
)
from dreamcache.runtime.sampling.decoding import decode_in_strips
from dreamcache.runtime.sessions.session import SessionOpener

Outputs = Mapping[str, NDArray[Any]]

_DENOISER = "denoiser"


@dataclass(frozen=True)
class DeviceFigures:
    """What a device was measured to compute.

    psnr_db: from PyTorch, by graph; the worst of its runs and outputs. condition: sizes of the effects of reference and
    text over PyTorch's, 1 is the same.
    """

    psnr_db: dict[str, float]
    condition: dict[str, float]

    def faults(self, least_db: float) -> Iterator[str]:
        """What is out of bounds, one line each."""
        for name, db in self.psnr_db.items():
            if db < least_db:
                yield f"graph {name}: at least {least_db:g} dB from PyTorch are expected, received {db:.1f}"
        for name, ratio in self.condition.items():
            if not abs(ratio - 1.0) <= CONDITION_TOLERANCE:
                yield (
                    f"effect of the {name}: within {CONDITION_TOLERANCE:.0%} of PyTorch's is expected, "
                    f"received {ratio:.3f} times it"
                )

    def __str__(self) -> str:
        graphs = ", ".join(f"{name} {db:.1f} dB" for name, db in self.psnr_db.items())
        effects = ", ".join(f"effect of the {name} {ratio:.3f}" for name, ratio in self.condition.items())
        return f"{graphs}; {effects}" if effects else graphs


def least_device_db(precision: Precision) -> float:
    """How near to PyTorch a device must be that computes a bundle exactly, in fp32 or fp16."""
    return MIN_DEVICE_PSNR_DB if precision in EIGHT_BITS else MIN_FP16_PSNR_DB


def check_device(sessions: SessionOpener) -> DeviceFigures | None:
    """Run every graph that has golden tensors; None for an older bundle, which has none.

    Raises: BundleError for a damaged file or a graph that fails.
    """
    cases = read_golden(sessions.bundle)
    if not cases:
        return None
    psnr: dict[str, float] = {}
    given: dict[str, Outputs] = {}
    for graph in dict.fromkeys(name.partition(":")[0] for name in cases):
        with sessions.open(graph) as session:
            for name in cases:
                if name.partition(":")[0] == graph:
                    given[name] = session.run(cases[name].inputs())
                    _worst(psnr, graph, cases[name], given[name])
    graphs, whole = sessions.bundle.contract.graphs, cases[_DENOISER]
    if graphs.plain is not None:
        with sessions.open("plain") as session:
            _worst(psnr, "plain", cases[STOCK], session.run(cases[STOCK].inputs()))
    if graphs.shallow is not None:
        inputs = {**whole.inputs(), "deep": given[_DENOISER]["deep"]}
        with sessions.open("shallow") as session:
            _worst(psnr, "shallow", whole, session.run(inputs))
    if graphs.vae_decoder_head is not None:
        decoder = cases["vae_decoder"]
        (latent,) = decoder.inputs().values()
        picture = decode_in_strips(graphs, sessions.open, latent)
        _worst(psnr, "vae_decoder_strips", decoder, {graphs.vae_decoder.outputs[0].name: picture})
    return DeviceFigures(psnr, _condition(cases, given))


def _worst(psnr: dict[str, float], name: str, case: GoldenCase, outputs: Outputs) -> None:
    """Note how far a graph is that may give fewer of the outputs."""
    found = [
        psnr_db(expected, take_sample(outputs[tensor], expected.size))
        for tensor, expected in case.outputs.items()
        if tensor in outputs
    ]
    psnr[name] = min([*found, psnr.get(name, np.inf)])


def _condition(cases: Mapping[str, GoldenCase], given: Mapping[str, Outputs]) -> dict[str, float]:
    """Effects of reference and text on the prediction, over those in PyTorch."""
    ratios = {}
    for name, other in (("reference", STOCK), ("text", NULL)):
        expected = [cases[case].outputs["prediction"] for case in (_DENOISER, other)]
        received = [
            take_sample(given[case]["prediction"], wish.size)
            for case, wish in zip((_DENOISER, other), expected, strict=True)
        ]
        ratios[name] = _distance(*received) / max(_distance(*expected), 1e-12)
    return ratios


def _distance(one: NDArray[Any], two: NDArray[Any]) -> float:
    return float(np.linalg.norm(one.astype(np.float64) - two.astype(np.float64)))
