"""The UNet's two graphs in 8 bits: calibrate on real trajectories, judge layers, choose, rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.session import open_exported
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.int8.calibration import (
    Observer,
    Range,
    expose_activations,
    open_observed,
    ranges_by_layer,
)
from dreamcache.export.int8.layer_search import Formats, LayerChoice, LayerJudge, choose_layers, fastest
from dreamcache.export.int8.layers import Layer, find_layers, weight_of
from dreamcache.export.int8.portable_form import PortableChoice, choose_portable
from dreamcache.export.int8.rewrite import quantise
from dreamcache.export.int8.trajectories import Array, TrajectorySampler
from dreamcache.export.int8.weights import QuantisedWeight, quantise_weight
from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.progress import StageProgress


@dataclass(frozen=True)
class Effort:
    """How much is drawn: a prediction takes milliseconds for a miniature and seconds at full size.

    Attributes:
        calibration: trajectories and steps that set the ranges.
        judged: trajectories and steps that score a choice; no trajectories: every layer takes its fastest format.
        fine: whether each convolution is judged alone (see `layers.group_layers`).
    """

    calibration: tuple[int, int]
    judged: tuple[int, int]
    fine: bool


@dataclass(frozen=True)
class QuantisedUnet:
    """What `quantise_unet` gives.

    Attributes:
        denoiser: rewritten graph.
        cache: likewise.
        choice: which layers went to 8 bits.
        formats: of every layer, for the parity report.
        drawn: scaled latents [1, z, h, w] of pictures that the base drew.
        portable: what the portable forms of denoiser and caching graph are made of, still with fused attention, and the
            choice for them; None where none was asked for.
    """

    denoiser: ir.Model
    cache: ir.Model
    choice: LayerChoice
    formats: dict[str, str]
    drawn: tuple[Array, ...]
    portable: tuple[ir.Model, ir.Model, PortableChoice] | None


SMALL = Effort(calibration=(4, 20), judged=(1, 20), fine=True)
LARGE = Effort(calibration=(1, 6), judged=(1, 2), fine=False)
UNJUDGED = Effort(calibration=(1, 2), judged=(0, 0), fine=False)
"""Effort for random weights."""


def quantise_unet(
    folder: Path,
    denoiser: tuple[ir.Model, GraphSpec],
    cache: tuple[ir.Model, GraphSpec],
    sampling: TrajectorySampler,
    effort: Effort,
    progress: StageProgress,
    *,
    portable: bool,
) -> QuantisedUnet:
    """Both graphs with the chosen layers in 8 bits.

    Args:
        folder: empty, for exact and tried graphs; its weights file must stay until the results are written.
        denoiser: exact graph and its declaration.
        cache: likewise.
        sampling: how trajectories are drawn.
        effort: how many.
        progress: called with what is done, and how much of how much.
        portable: whether a portable form is wanted.

    Raises:
        ExportError: activations are not finite, or no layer can go to 8 bits.
    """
    write_shared(folder, {"denoiser.onnx": denoiser[0], "cache.onnx": cache[0]}, "weights.data")
    models = (denoiser[0], cache[0])
    layers = {name: layer for model in models for name, layer in find_layers(model).items()}
    drawn, references, ranges = _calibrate(folder, denoiser, cache, sampling, effort, progress, portable)
    weights = _weights(models, layers)
    trajectories, steps = effort.judged
    judge: LayerJudge | None = None
    if trajectories == 0:
        choice = fastest(layers)
    else:
        judged = {index: references[index] for index in range(trajectories)}
        judge = LayerJudge(folder, denoiser, cache, weights, ranges, sampling, judged, steps)
        choice = choose_layers(judge, layers, effort.fine, progress)

    def rewritten(formats: Formats, pad_first: bool = False) -> tuple[ir.Model, ir.Model]:
        return (
            quantise(denoiser[0], formats, weights, ranges["denoiser"], pad_first=pad_first),
            quantise(cache[0], formats, weights, ranges["cache"], pad_first=pad_first),
        )

    other: tuple[ir.Model, ir.Model, PortableChoice] | None = None
    if portable:
        chosen = choose_portable(judge, choice, layers, effort.fine, progress)
        other = (*rewritten(chosen.formats, pad_first=True), chosen)
    return QuantisedUnet(*rewritten(choice.formats), choice, format_names(layers, choice), drawn, other)


def format_names(layers: Mapping[str, Layer], choice: LayerChoice) -> dict[str, str]:
    """How the parity report names the format of every layer."""
    return {name: f"int8 {choice.formats[name]}" if name in choice.formats else "fp32" for name in layers}


def _calibrate(
    folder: Path,
    denoiser: tuple[ir.Model, GraphSpec],
    cache: tuple[ir.Model, GraphSpec],
    sampling: TrajectorySampler,
    effort: Effort,
    progress: StageProgress,
    portable: bool,
) -> tuple[tuple[Array, ...], dict[int, Array], dict[str, dict[str, Range]]]:
    """Pictures that the base drew, references of them, and by graph the ranges of what feeds and leaves layers."""
    trajectories, steps = effort.calibration
    observers = {"denoiser": Observer(), "cache": Observer()}
    observed = {
        name: expose_activations(model, folder / f"{name}-observed.onnx", products=portable)
        for name, (model, _) in (("denoiser", denoiser), ("cache", cache))
    }
    total, done = 2 * trajectories * steps, 0

    def tick() -> None:
        nonlocal done
        progress("calibrating on real trajectories", done, total)
        done += 1

    exact = open_exported("denoiser", folder / "denoiser.onnx", denoiser[1])
    drawn: tuple[Array, ...] = ()
    for index in range(trajectories):
        drawn += (sampling.draw_picture(exact, index, steps),)
        done = (index + 1) * steps
        progress("calibrating on real trajectories", done, total)
    del exact
    references = {index: sampling.as_reference(latent) for index, latent in enumerate(drawn)}
    graph = open_observed(
        "cache", folder / "cache-observed.onnx", cache[1], tuple(observed["cache"]), observers["cache"]
    )
    caches = {index: graph.run({"latent": reference}) for index, reference in references.items()}
    path = folder / "denoiser-observed.onnx"
    graph = open_observed("denoiser", path, denoiser[1], tuple(observed["denoiser"]), observers["denoiser"])
    for index, keys_and_values in caches.items():
        sampling.trajectory(graph, index, steps, keys_and_values, tick)
    del graph
    for name in observed:
        (folder / f"{name}-observed.onnx").unlink()
    try:
        return (
            drawn,
            references,
            {
                name: ranges_by_layer(observer.ranges(), observed[name])
                for name, observer in observers.items()
            },
        )
    except ValueError as error:
        raise ExportError(f"calibration: {error}; are the base's weights sound?") from error


def _weights(models: Sequence[ir.Model], layers: dict[str, Layer]) -> dict[str, QuantisedWeight]:
    found: dict[str, QuantisedWeight] = {}
    for model in models:
        for node in model.graph:
            name = node.name or ""
            if name in layers and name not in found:
                found[name] = quantise_weight(layers[name], weight_of(node))
    return found
