"""Saved packages compared with PyTorch, in any engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dreamcache.export.coreml.checks.recording import Recording
from dreamcache.export.coreml.graph import CoreMLGraph, OpenFunction, open_coreml_graph
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.trace import sample_input
from dreamcache.export.parity.gates import (
    Finding,
    check_condition,
    check_psnr,
    check_sensitivity,
    condition_ratios,
)
from dreamcache.export.parity.unet import measure_unet
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.bundle.parity import (
    CONDITION_TOLERANCE,
    MIN_COREML_COMPONENT_PSNR_DB,
    MIN_COREML_PSNR_DB,
    psnr_db,
)
from dreamcache.runtime.checks import Check
from dreamcache.runtime.errors import DreamCacheError

OpenGraph = Callable[[str], CoreMLGraph]


@dataclass(frozen=True)
class CoreMLParity:
    """What was found.

    Attributes:
        psnr_db: by graph.
        findings: at each point of the trajectory.
        trajectory_db: the latent after each step.
    """

    psnr_db: Mapping[str, float]
    findings: tuple[Finding, ...]
    trajectory_db: tuple[float, ...]

    @property
    def condition(self) -> dict[str, float]:
        """Effects of reference and text over PyTorch's."""
        return condition_ratios(self.findings)


def measure_trajectory(
    open_coreml_graph: OpenGraph, architecture: Architecture, recording: Recording
) -> CoreMLParity:
    """``cache`` and ``denoise`` along the recorded trajectory."""
    names = {"cache": "cache", "denoiser": "denoise"}
    found = measure_unet(
        lambda name: open_coreml_graph(names[name]),
        architecture,
        recording,
        recording.references,
        recording.points,
    )
    psnr = {"cache": found.cache_db, "denoise": found.denoiser_db}
    return CoreMLParity(psnr, tuple(found.findings), tuple(found.trajectory_db))


def measure_samples(open_coreml_graph: OpenGraph, part: CoreMLPart, recording: Recording) -> dict[str, float]:
    """Every other graph on its sample inputs, the worst dB of its outputs."""
    found = {}
    for name, outputs in recording.outputs.items():
        if name not in part.graphs:
            raise ExportError(f"graph {name} was recorded and is not declared; export again")
        pieces = [part.models[piece.model].functions[piece.function] for piece in part.graphs[name]]
        written = {spec.name for piece in pieces for spec in piece.outputs}
        given = {
            spec.name: sample_input(spec).numpy()
            for piece in pieces
            for spec in piece.inputs
            if spec.name not in written
        }
        received = open_coreml_graph(name).run(given)
        found[name] = min(psnr_db(expected, received[tensor]) for tensor, expected in outputs.items())
    return found


def check_measured(
    measured: CoreMLParity, samples: Mapping[str, float], weights: str, arithmetic: str
) -> None:
    """The gates.

    Raises:
        ExportError: one fails; a line that names it.
    """
    remedy = (
        "give --coreml weights=FORMAT more bits, or mixed"
        if weights != "fp16"
        else "report the base that fails"
    )
    for name, db in {**measured.psnr_db, **samples}.items():
        check_psnr(f"Core ML {name} in {arithmetic}", db, _least_db(name, weights), remedy)
    check_condition(measured.findings, remedy)
    if weights == "fp16":
        # What coarse weights lose may be more than a young adapter's whole effect, whose size is then all that counts.
        check_sensitivity(measured.findings, MIN_COREML_PSNR_DB[weights], 1.0)


def compared(
    folder: Path,
    contract: Contract,
    part: CoreMLPart,
    recording: Recording,
    open_piece: OpenFunction,
    title: str,
) -> Iterator[Check]:
    """Compare every graph with the recording; `open_piece` opens it in an engine."""
    opened = lambda name: open_coreml_graph(folder, part, name, open_piece)  # noqa: E731 (short, and passed twice)
    try:
        measured = measure_trajectory(opened, contract.architecture, recording)
        samples = measure_samples(opened, part, recording)
    except DreamCacheError as error:
        yield Check(f"Core ML {title}", False, str(error))
        return
    for name, db in {**measured.psnr_db, **samples}.items():
        least = _least_db(name, part.weights)
        yield Check(
            f"{name} {title}", db >= least, f"{db:.1f} dB from PyTorch, at least {least:g} are expected"
        )
    yield _condition(measured, title)


def _condition(measured: CoreMLParity, title: str) -> Check:
    try:
        ratios = measured.condition
    except ExportError as error:
        return Check(f"condition {title}", False, str(error))
    passed = all(abs(ratio - 1) <= CONDITION_TOLERANCE for ratio in ratios.values())
    detail = ", ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items())
    return Check(f"condition {title}", passed, f"effects over PyTorch's: {detail}")


def _least_db(graph: str, weights: str) -> float:
    unet = graph.startswith(("cache", "denoise"))
    return MIN_COREML_PSNR_DB[weights] if unet else MIN_COREML_COMPONENT_PSNR_DB
