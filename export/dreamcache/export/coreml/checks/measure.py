"""Saved packages beside what PyTorch computed, in whatever runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dreamcache.export.coreml.checks.recording import Recording
from dreamcache.export.coreml.graph import CoreMLGraph
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.trace import sample_input
from dreamcache.export.parity.gates import (
    Finding,
    check_condition,
    check_psnr,
    check_sensitivity,
    condition_ratios,
    psnr_db,
)
from dreamcache.export.parity.unet import measure_unet
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.coreml import CoreMLPart

LEAST_DB = {"fp16": 50.0, "int8": 35.0, "palette6": 25.0, "palette4": 10.0, "mixed": 10.0}
"""Of the UNet against PyTorch, by how its weights are stored; what must hold beside it is the condition's size."""
LEAST_COMPONENT_DB = 40.0
"""Of text encoder and VAE, in 16 bits."""

OpenGraph = Callable[[str], CoreMLGraph]


@dataclass(frozen=True)
class Measured:
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


def measure_trajectory(open_graph: OpenGraph, architecture: Architecture, recording: Recording) -> Measured:
    """``cache`` and ``denoise`` along the recorded trajectory."""
    names = {"cache": "cache", "denoiser": "denoise"}
    found = measure_unet(
        lambda name: open_graph(names[name]),
        architecture,
        recording,
        recording.references,
        recording.points,
    )
    psnr = {"cache": found.cache_db, "denoise": found.denoiser_db}
    return Measured(psnr, tuple(found.findings), tuple(found.trajectory_db))


def measure_samples(open_graph: OpenGraph, part: CoreMLPart, recording: Recording) -> dict[str, float]:
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
        received = open_graph(name).run(given)
        found[name] = min(psnr_db(expected, received[tensor]) for tensor, expected in outputs.items())
    return found


def check_measured(measured: Measured, samples: Mapping[str, float], weights: str, arithmetic: str) -> None:
    """The gates.

    Raises:
        ExportError: one fails; a line that names it.
    """
    least = LEAST_DB[weights]
    remedy = (
        "give --coreml-weights more bits, or mixed" if weights != "fp16" else "report the base that fails"
    )
    for name, db in measured.psnr_db.items():
        check_psnr(f"Core ML {name} in {arithmetic}", db, least, remedy)
    for name, db in samples.items():
        unet = name.startswith(("cache", "denoise"))
        check_psnr(f"Core ML {name} in {arithmetic}", db, least if unet else LEAST_COMPONENT_DB, remedy)
    check_condition(measured.findings, remedy)
    if weights == "fp16":
        # What coarse weights lose may be more than a young adapter's whole effect, whose size is then all that counts.
        check_sensitivity(measured.findings, least, 1.0)
