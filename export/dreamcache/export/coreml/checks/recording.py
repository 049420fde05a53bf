"""What PyTorch computed, kept in the bundle so that its packages can be judged where no base is at hand.

A trajectory of the UNet with two references, and what the other graphs make of their sample inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dreamcache.export.coreml.modules import CoreMLModule
from dreamcache.export.declare.settings import declare_scheduler
from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.trace import sample_input
from dreamcache.export.options import Approximations
from dreamcache.export.parity.torch_reference import GUIDANCE_SCALE, GUIDING, Point, Reference, TorchModel
from dreamcache.export.source import Source
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.sampling import SchedulerSpec
from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.sampling.schedulers import make_scheduler
from dreamcache.runtime.sessions.allocator import release_freed

Array = NDArray[np.float32]

FILE = "recording.safetensors"
_FORMAT = "dreamcache-recording-1"


@dataclass(frozen=True)
class Recording:
    """PyTorch's side of a comparison, as `parity.unet.TrajectoryOrigin` wants it.

    Attributes:
        embeddings: what the denoiser reads of null text and prompt.
        references: two, without PyTorch's own cache.
        points: of the trajectory with the first one.
        outputs: of other graphs, by graph and tensor, for `graphs.trace.sample_input` of every input.
        scheduler: of the base; the trajectory is DDIM's.
    """

    embeddings: Mapping[str, Mapping[str, Array]]
    references: tuple[Reference, ...]
    points: tuple[Point, ...]
    outputs: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    scheduler: SchedulerSpec | None = None

    def advance(self, latent: Array, timestep: int, predictions: Mapping[Branch, Array]) -> Array:
        """One DDIM step under classic guidance."""
        assert self.scheduler is not None
        sampler = make_scheduler(self.scheduler, "ddim", len(self.points))
        index = [point.timestep for point in self.points].index(timestep)
        null, prompted = (predictions[branch] for branch in GUIDING)
        after: Array = sampler.step(null + np.float32(GUIDANCE_SCALE) * (prompted - null), index, latent)
        return after

    def save(self, place: Path) -> None:
        """Write one safetensors file."""
        tensors: dict[str, Array] = {
            f"{_place(tensor)}/{name}": value
            for name, read in self.embeddings.items()
            for tensor, value in read.items()
        }
        for index, reference in enumerate(self.references):
            tensors[f"reference/{index}/latent"] = reference.latent
            tensors |= {
                f"reference/{index}/projected/{name}": value for name, value in reference.projected.items()
            }
        for index, point in enumerate(self.points):
            tensors |= {
                f"point/{index}/latent": point.latent,
                f"point/{index}/after": point.after,
                f"point/{index}/timestep": np.array([point.timestep], np.float32),
            } | {
                f"point/{index}/prediction/{branch.text}/{branch.strength:g}": value
                for branch, value in point.predictions.items()
            }
        for graph, outputs in self.outputs.items():
            tensors |= {f"output/{graph}/{name}": value for name, value in outputs.items()}
        whole = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
        save_file(whole, place, {"format": _FORMAT})


def load_recording(place: Path, scheduler: SchedulerSpec) -> Recording:
    """Read what `Recording.save` wrote.

    Raises:
        ExportError: not such a file, or an incomplete one.
    """
    try:
        with safe_open(place, "numpy") as file:
            if (file.metadata() or {}).get("format") != _FORMAT:
                raise ExportError(f"{place}: a recording of this version is expected; export again")
            tree: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{place}: cannot be read ({error}); export again") from error
    try:
        return Recording(
            _embeddings(tree),
            tuple(_reference(_below(tree, f"reference/{index}")) for index in range(2)),
            tuple(_point(_below(tree, f"point/{index}")) for index in range(_count(tree, "point"))),
            {graph: _below(tree, f"output/{graph}") for graph in sorted(_heads(_below(tree, "output")))},
            scheduler,
        )
    except KeyError as error:
        raise ExportError(f"{place}: {error.args[0]} is missing; export again") from error


def without_cache(reference: Reference) -> Reference:
    """What a file can hold of a reference."""
    return replace(reference, cache={})


def _place(tensor: str) -> str:
    """Of what is read of prompts: their embeddings under ``text``, SDXL's further conditions under ``added``."""
    return tensor if tensor == "text" else f"added/{tensor}"


def _embeddings(tree: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    tensors = ["text", *sorted(_heads(_below(tree, "added")))]
    return {
        name: {tensor: _below(tree, _place(tensor))[name] for tensor in tensors}
        for name in _below(tree, "text")
    }


def _reference(tree: Mapping[str, Array]) -> Reference:
    return Reference(tree["latent"], {}, dict(_below(tree, "projected")))


def _point(tree: Mapping[str, Array]) -> Point:
    predictions = {}
    for name, value in _below(tree, "prediction").items():
        text, strength = name.split("/")
        predictions[Branch("prompt" if text == "prompt" else "null", float(strength))] = value
    return Point(tree["latent"], int(tree["timestep"][0]), predictions, tree["after"])


def _below(tree: Mapping[str, Array], head: str) -> dict[str, Array]:
    start = f"{head}/"
    return {name.removeprefix(start): value for name, value in tree.items() if name.startswith(start)}


def _heads(tree: Mapping[str, Array]) -> set[str]:
    return {name.split("/")[0] for name in tree}


def _count(tree: Mapping[str, Array], head: str) -> int:
    return len(_heads(_below(tree, head)))


@torch.no_grad()
def record(
    source: Source,
    architecture: Architecture,
    approximations: Approximations,
    parts: Mapping[str, CoreMLModule],
    components: Mapping[str, CoreMLModule],
) -> Recording:
    """PyTorch's trajectory, and what its modules make of sample inputs."""
    torch_model = TorchModel(source.base, source.conditioned, architecture, approximations)
    references, points = torch_model.sample(brief=source.weights == "random")
    sampled = {name: part for name, part in parts.items() if name not in ("cache", "denoise")}
    outputs = {}
    for name, part in {**components, **sampled}.items():
        found = part.module(*(sample_input(spec) for spec in part.inputs))
        tensors = found if isinstance(found, tuple) else (found,)
        outputs[name] = {spec.name: value.numpy() for spec, value in zip(part.outputs, tensors, strict=True)}
    release_freed()
    return Recording(
        torch_model.embeddings,
        tuple(without_cache(reference) for reference in references),
        tuple(points),
        outputs,
        declare_scheduler(source.base),
    )
