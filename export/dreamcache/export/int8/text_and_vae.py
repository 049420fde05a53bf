"""Text encoder and VAE in 8 bits.

Products and the table of embeddings need no calibration. The VAE's convolutions are calibrated on pictures that the
base drew; the decoder's graphs (whole, head and strips) hold the same weights, so a range that was seen in a strip
serves the whole decoder too, whose maps at full size are too many to expose_activations at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dreamcache.export.graphs.portable import load_simplified
from dreamcache.export.graphs.shared_weights import rewrite_shared
from dreamcache.export.int8.calibration import (
    Observer,
    Range,
    expose_activations,
    input_of,
    open_observed,
    output_of,
    ranges_by_layer,
)
from dreamcache.export.int8.layer_search import fastest
from dreamcache.export.int8.layers import Layer, find_layers, weight_of
from dreamcache.export.int8.rewrite import quantise
from dreamcache.export.int8.trajectories import Array, middle_square, on_white
from dreamcache.export.int8.weights import quantise_weight
from dreamcache.runtime.bundle.contract import Graphs, GraphSpec
from dreamcache.runtime.progress import StageProgress
from dreamcache.runtime.sampling.decoding import OpenGraph, open_decoder
from dreamcache.runtime.sessions.session import GraphSession

OUTER_CHANNELS = 32
"""A convolution from or to so few channels is one from or to pixels or latents: small, and seen by every value."""


def quantise_components(
    folder: Path, graphs: Graphs, latents: Sequence[Array], progress: StageProgress
) -> None:
    """Rewrite text encoder, VAE encoder and every graph of the VAE decoder in place.

    Args:
        folder: of the unfinished bundle.
        graphs: its declarations.
        latents: unscaled latents [1, z, h, w] to calibrate the VAE on.
        progress: called with what is done, and how much of how much.
    """
    title = "text encoder and VAE in 8 bits"
    progress(title, 0, 4)
    named = graphs.by_name()
    for name in ("text_encoder", "text_encoder_2"):
        if name in named:
            _rewrite(folder, {name: named[name]}, {})
    decoder = {name: spec for name, spec in named.items() if name.startswith("vae_decoder")}
    tiled = graphs.vae_decoder_head is not None
    observed = {name: spec for name, spec in decoder.items() if not tiled or name != "vae_decoder"}
    pictures: list[Array] = []
    progress(title, 1, 4)
    with _observing(folder, observed) as (open_observed_graph, ranges):
        for latent in latents:
            with open_decoder(graphs, open_observed_graph, tiled) as decode:
                pictures.append(middle_square(np.clip(decode(latent), -1, 1)))
    progress(title, 2, 4)
    _rewrite(folder, decoder, ranges)
    encoder = {"vae_encoder": graphs.vae_encoder}
    with (
        _observing(folder, encoder) as (open_observed_graph, ranges),
        open_observed_graph("vae_encoder") as graph,
    ):
        for picture in [*pictures, *(on_white(picture) for picture in pictures)]:
            graph.run({graphs.vae_encoder.inputs[0].name: picture})
    progress(title, 3, 4)
    _rewrite(folder, encoder, ranges)


def _chosen(model: ir.Model) -> dict[str, Layer]:
    """Every layer but the convolutions of pixels and latents."""
    layers = find_layers(model)
    for node in model.graph:
        layer = layers.get(node.name or "")
        if (
            layer is not None
            and layer.kind == "convolution"
            and min(weight_of(node).shape[:2]) <= OUTER_CHANNELS
        ):
            del layers[layer.name]
    return layers


@contextmanager
def _observing(folder: Path, specs: Mapping[str, GraphSpec]) -> Iterator[tuple[OpenGraph, dict[str, Range]]]:
    """Graphs whose convolutions are observed while the block runs; the ranges are there when it ends.

    Ranges are kept by the digest of the convolution's weight (see `_keys`), which several graphs may hold.
    """
    observers = {name: Observer() for name in specs}
    paths = {name: (folder / spec.file).with_suffix(".observed.onnx") for name, spec in specs.items()}
    models = {name: load_simplified(folder / spec.file) for name, spec in specs.items()}
    observed = {name: expose_activations(model, paths[name]) for name, model in models.items()}
    ranges: dict[str, Range] = {}

    @contextmanager
    def open_observed_graph(name: str) -> Iterator[GraphSession]:
        yield open_observed(name, paths[name], specs[name], tuple(observed[name]), observers[name])

    try:
        yield open_observed_graph, ranges
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)
    for name, model in models.items():
        found = ranges_by_layer(observers[name].ranges(), observed[name])
        for layer, key in _keys(model).items():
            for place in (input_of, output_of):
                if place(layer) in found:
                    ranges[place(key)] = found[place(layer)]


def _rewrite(folder: Path, specs: Mapping[str, GraphSpec], ranges: Mapping[str, Range]) -> None:
    """Quantise graphs in place; those that share a weights file share it again."""
    shared: dict[str, ir.Model] = {}
    for spec in specs.values():
        path = folder / spec.file
        model = load_simplified(path)
        layers, keys = _chosen(model), _keys(model)
        own = {
            place(name): ranges[place(keys[name])]
            for name, layer in layers.items()
            if layer.kind == "convolution"
            for place in (input_of, output_of)
        }
        nodes = {node.name: node for node in model.graph}
        weights = {name: quantise_weight(layer, weight_of(nodes[name])) for name, layer in layers.items()}
        shared[path.name] = quantise(model, fastest(layers).formats, weights, own)
    first = next(iter(specs.values()))
    place, (weights_file,) = (folder / first.file).parent, first.weights
    rewrite_shared(place, shared, Path(weights_file).name)


def _keys(model: ir.Model) -> dict[str, str]:
    """The digest of each convolution's weight, by its layer."""
    layers = find_layers(model)
    return {
        str(node.name): hashlib.sha256(weight_of(node).tobytes()).hexdigest()
        for node in model.graph
        if node.name in layers and layers[node.name].kind == "convolution"
    }
