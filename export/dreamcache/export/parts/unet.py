"""Writing the UNet: caching graph, denoiser and what is cut out of it, in full precision or in 8 bits."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from dreamcache.export.graphs.derived import derive_plain, derive_shallow
from dreamcache.export.graphs.fp16 import store_half
from dreamcache.export.graphs.fp16_arithmetic import HalfArithmetic
from dreamcache.export.graphs.portable import portable_file
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph, free_tokens
from dreamcache.export.int8.layer_search import LayerChoice
from dreamcache.export.int8.portable_form import PortableChoice
from dreamcache.export.int8.trajectories import PROMPTS, TrajectorySampler
from dreamcache.export.int8.unet import LARGE, SMALL, UNJUDGED, quantise_unet
from dreamcache.export.int8.weights_alone import with_weights_in_8_bits
from dreamcache.export.modules.attention import AttentionKind
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph, caching_condition
from dreamcache.export.options import Approximations
from dreamcache.export.resources import is_large
from dreamcache.models.bases.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.architecture import (
    Architecture,
    cache_tensors,
    caching_graph_inputs,
    denoiser_inputs,
    denoiser_outputs,
    plain_inputs,
    plain_outputs,
    shallow_inputs,
)
from dreamcache.runtime.bundle.contract import GraphSpec, GuidanceDefaults, Precision, SchedulerSpec
from dreamcache.runtime.bundle.tensors import TensorSpec
from dreamcache.runtime.progress import StageProgress

CACHE_FILE = "unet/cache.onnx"
DENOISER_FILE = "unet/model.onnx"
PLAIN_FILE = "unet/plain.onnx"
SHALLOW_FILE = "unet/shallow.onnx"
WEIGHTS_FILE = "unet/weights.data"

CHANGES: dict[Precision, Callable[[ir.Model], ir.Model]] = {
    "fp16": store_half,
    "web8": with_weights_in_8_bits,
}
"""Precisions that change each weight by itself."""


@dataclass(frozen=True)
class UnetSpecs:
    """The UNet's graphs as the contract declares them.

    Attributes:
        cache: caching graph.
        denoiser: every step.
        plain: the stock UNet.
        shallow: for step caching.
    """

    cache: GraphSpec
    denoiser: GraphSpec
    plain: GraphSpec
    shallow: GraphSpec


@dataclass(frozen=True)
class Written:
    """What writing the UNet left.

    Attributes:
        disk: bytes of both graphs with their weights, and of the denoiser with its own.
        choice: which layers went to 8 bits; None in full precision.
        formats: of every layer, by its name; empty in full precision.
        drawn: scaled latents of pictures that the base drew on the way; none in full precision.
        portable: which layers of the portable form went to 8 bits, and how; None where it is the same graph.
    """

    disk: tuple[int, int]
    choice: LayerChoice | None = None
    formats: dict[str, str] = field(default_factory=dict)
    drawn: tuple[NDArray[np.float32], ...] = ()
    portable: PortableChoice | None = None


def declare_unet(architecture: Architecture) -> UnetSpecs:
    """The graphs' files and tensors, before any is written."""
    return UnetSpecs(
        cache=_spec(CACHE_FILE, caching_graph_inputs(architecture), cache_tensors(architecture)),
        denoiser=_spec(DENOISER_FILE, denoiser_inputs(architecture), denoiser_outputs(architecture)),
        plain=_spec(PLAIN_FILE, plain_inputs(architecture), plain_outputs(architecture)),
        shallow=_spec(SHALLOW_FILE, shallow_inputs(architecture), plain_outputs(architecture)),
    )


@torch.no_grad()
def export_unet(
    base: Base,
    conditioned: ConditionedUNet,
    folder: Path,
    architecture: Architecture,
    attention: AttentionKind,
    approximations: Approximations,
    progress: StageProgress,
    sampling: TrajectorySampler | None = None,
    *,
    precision: Precision = "fp32",
    judged: bool = True,
    portable: bool = False,
) -> Written:
    """Write every graph of the UNet below `folder`, on one weights file.

    Args:
        base: for the text encoder, and its UNet's size.
        conditioned: the UNet with adapters.
        folder: of the bundle.
        architecture: shapes.
        attention: how attention is written.
        approximations: of attention at the topmost level.
        progress: called with what begins, and how much of how much is done.
        sampling: how to draw the trajectories that decide about 8 bits; None is full precision.
        precision: of the graphs.
        judged: False for random weights, which draw nothing that 8 bits could lose.
        portable: whether 8 bits get a portable form of their own (`graphs.portable.add_portable` finishes it).

    Raises:
        ExportError: a graph cannot be exported, or not in 8 bits.
    """
    specs = declare_unet(architecture)
    progress("denoiser graph", 0, 2)
    graph = DenoiserGraph(conditioned, attention, approximations)
    denoiser = export_graph(graph, specs.denoiser.inputs, specs.denoiser.outputs)
    progress("caching graph", 1, 2)
    null = caching_condition(base, conditioned, architecture)
    caching = CachingGraph(conditioned, null.text, attention, approximations, null.added or None)
    cache = export_graph(caching, specs.cache.inputs, specs.cache.outputs)
    del graph, caching
    place = (folder / DENOISER_FILE).parent
    place.mkdir()
    if sampling is None:
        if precision in CHANGES:
            denoiser, cache = CHANGES[precision](denoiser), CHANGES[precision](cache)
        finish = HalfArithmetic() if precision == "web" else None
        return Written(_write(place, denoiser, cache, specs, finish))
    exact = place / "exact"
    exact.mkdir()
    effort = (LARGE if is_large(base) else SMALL) if judged else UNJUDGED
    quantised = quantise_unet(
        exact, (denoiser, specs.denoiser), (cache, specs.cache), sampling, effort, progress, portable=portable
    )
    other = None if quantised.portable is None else quantised.portable[:2]
    disk = _write(place, quantised.denoiser, quantised.cache, specs, portable=other)
    shutil.rmtree(exact)
    chosen = None if quantised.portable is None else quantised.portable[2]
    return Written(disk, quantised.choice, quantised.formats, quantised.drawn, chosen)


def make_sampler(
    base: Base,
    conditioned: ConditionedUNet,
    architecture: Architecture,
    scheduler: SchedulerSpec,
    guidance: GuidanceDefaults,
    prompts: Sequence[str] | None,
) -> TrajectorySampler:
    """Trajectories of a base under its bundle's own sampler and guidance; None takes the default prompts.

    Raises:
        ExportError: an empty list of prompts.
    """
    chosen = PROMPTS if prompts is None else prompts
    return TrajectorySampler(
        base, architecture, scheduler, guidance, chosen, conditioned.config.cache_timestep
    )


def _write(
    place: Path,
    denoiser: ir.Model,
    cache: ir.Model,
    specs: UnetSpecs,
    finish: Callable[[ir.Model], ir.Model] | None = None,
    portable: tuple[ir.Model, ir.Model] | None = None,
) -> tuple[int, int]:
    named = _with_derived(denoiser, cache, specs)
    if finish is not None:
        named = {name: finish(model) for name, model in named.items()}
    if portable is not None:
        named |= {portable_file(name): model for name, model in _with_derived(*portable, specs).items()}
    shared = write_shared(place, named, Path(WEIGHTS_FILE).name)
    sizes = [(place / Path(spec.file).name).stat().st_size for spec in (specs.denoiser, specs.cache)]
    return sum(sizes) + shared.weights_bytes, sizes[0] + shared.first_weights_bytes


def _with_derived(denoiser: ir.Model, cache: ir.Model, specs: UnetSpecs) -> dict[str, ir.Model]:
    """Every graph of the UNet by the name of its file."""
    free_tokens(denoiser, specs.denoiser.inputs)
    plain = derive_plain(denoiser, specs.plain.inputs, specs.plain.outputs)
    shallow = derive_shallow(denoiser, specs.shallow.inputs, specs.shallow.outputs)
    models = {specs.denoiser: denoiser, specs.cache: cache, specs.plain: plain, specs.shallow: shallow}
    return {Path(spec.file).name: model for spec, model in models.items()}


def _spec(file: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> GraphSpec:
    return GraphSpec(file=file, weights=(WEIGHTS_FILE,), inputs=inputs, outputs=outputs)
