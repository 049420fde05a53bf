"""The ONNX graphs of a bundle: their files and tensors, and what makes them agree with the architecture.

The shapes of the UNet's graphs follow from `architecture.py`; graphs that contradict it are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

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
from dreamcache.runtime.bundle.decoder_strips import StripKind, check_strips
from dreamcache.runtime.bundle.tensors import BundlePath, ContractModel, FileRecord, TensorSpec


class GraphSpec(ContractModel):
    """One ONNX file, the files that hold its weights, and its tensors as the graph names them.

    portable: another file of the same graph, in the same folder and on the same weights, of standard operators alone,
    for providers that know no fused attention; None where `file` is that.
    """

    newer = ("portable",)

    file: BundlePath
    portable: BundlePath | None = None
    weights: tuple[BundlePath, ...] = ()
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)

    @property
    def files(self) -> tuple[BundlePath, ...]:
        """The graph's ONNX files."""
        return (self.file,) if self.portable is None else (self.file, self.portable)

    @model_validator(mode="after")
    def _lies_in_one_folder(self) -> GraphSpec:
        if len({path.rpartition("/")[0] for path in self.files}) > 1:
            raise ValueError(f"both forms of a graph are expected in one folder, received {self.files}")
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> GraphSpec:
        for specs in (self.inputs, self.outputs):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise ValueError(f"every tensor is expected once, received {names}")
        return self


class StripSpec(GraphSpec):
    """One graph of the decoder in strips (`decoder_strips.py`); kind: which part of a decoder's block it is."""

    kind: StripKind


# Colours lie from 0 to 1; beyond these bounds float32 would hold nothing of them.
_Mean = Annotated[float, Field(ge=-1e3, le=1e3)]
_Spread = Annotated[float, Field(ge=1e-3, le=1e3)]


class SegmenterSpec(GraphSpec):
    """A picture [1,3,h,w], (colours from 0 to 1 − mean) / std, to the mask of its subject [1,1,h,w] from 0 to 1.

    The whole picture is scaled to h × w; both are the segmenter's own. mean, std: of red, green and blue.
    """

    mean: tuple[_Mean, _Mean, _Mean] = (0.0, 0.0, 0.0)
    std: tuple[_Spread, _Spread, _Spread] = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _makes_a_mask(self) -> SegmenterSpec:
        given, made = [spec.shape for spec in self.inputs], [spec.shape for spec in self.outputs]
        sides = given[0][2:]
        if len(sides) != 2 or given != [(1, 3, *sides)] or made != [(1, 1, *sides)]:
            raise ValueError(
                f"a segmenter's input [1, 3, h, w] and output [1, 1, h, w] are expected, received {given} and {made}"
            )
        return self


class Graphs(ContractModel):
    """The five required graphs and the optional ones. The UNet's share one weights file.

    text_encoder: token ids [1,n] -> [1,n,c]. text_encoder_2: of SDXL, likewise, and the pooled embedding [1,p]; the two
    embeddings side by side are the text. vae_encoder: picture [1,3,H,W] in -1…1 -> [1,z or 2z,h,w],
    whose first z channels are the mean. vae_decoder: unscaled latent [1,z,h,w] -> picture [1,3,H,W].
    plain: the stock UNet without adapters. shallow: the denoiser from the deep features of an earlier step on.
    vae_decoder_head, vae_decoder_strips: the decoder again, for less memory: unscaled latent -> features
    [1,c,h,w], then the graphs that make the picture of them strip by strip, in order.
    segmenter: finds the subject of a reference picture.
    """

    newer = ("text_encoder_2", "segmenter")

    cache: GraphSpec
    denoiser: GraphSpec
    text_encoder: GraphSpec
    vae_encoder: GraphSpec
    vae_decoder: GraphSpec
    text_encoder_2: GraphSpec | None = None
    plain: GraphSpec | None = None
    shallow: GraphSpec | None = None
    vae_decoder_head: GraphSpec | None = None
    vae_decoder_strips: tuple[StripSpec, ...] = ()
    segmenter: SegmenterSpec | None = None

    @property
    def text_encoders(self) -> tuple[GraphSpec, ...]:
        """One, or SDXL's two."""
        return (self.text_encoder, *(() if self.text_encoder_2 is None else (self.text_encoder_2,)))

    def by_name(self) -> dict[str, GraphSpec]:
        """The graphs of this bundle by name, in order; a decoder's strip is called `strip_name`."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        strips = {strip_name(index): strip for index, strip in enumerate(found.pop("vae_decoder_strips"))}
        return {name: graph for name, graph in found.items() if graph is not None} | strips


def strip_name(index: int) -> str:
    """Name of a decoder's strip in `Graphs.by_name`."""
    return f"vae_decoder_strip_{index}"


def graph_fingerprint(graphs: Graphs, files: Mapping[str, FileRecord]) -> str:
    """SHA-256 over the hashes of the caching graph, the denoiser and their weights."""
    paths = {path for graph in (graphs.cache, graphs.denoiser) for path in (graph.file, *graph.weights)}
    lines = [f"{path} {files[path].sha256}" for path in sorted(paths)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def check_graphs(graphs: Graphs, architecture: Architecture, files: Mapping[str, FileRecord]) -> None:
    """The UNet's graphs have the tensors that follow from the architecture, and every file is listed."""
    declared = {
        "cache inputs": (graphs.cache.inputs, caching_graph_inputs(architecture)),
        "cache outputs": (graphs.cache.outputs, cache_tensors(architecture)),
        "denoiser inputs": (graphs.denoiser.inputs, denoiser_inputs(architecture)),
        "denoiser outputs": (graphs.denoiser.outputs, denoiser_outputs(architecture)),
    }
    if graphs.plain is not None:
        declared["plain inputs"] = (graphs.plain.inputs, plain_inputs(architecture))
        declared["plain outputs"] = (graphs.plain.outputs, plain_outputs(architecture))
    if (graphs.shallow is None) != (architecture.deep is None):
        raise ValueError(
            "a shallow graph and the architecture's deep features belong together; one is missing"
        )
    if graphs.shallow is not None:
        declared["shallow inputs"] = (graphs.shallow.inputs, shallow_inputs(architecture))
        declared["shallow outputs"] = (graphs.shallow.outputs, plain_outputs(architecture))
    for place, (received, expected) in declared.items():
        _same_tensors(place, received, expected)
    _check_components(graphs, architecture)
    _check_decoder(graphs, architecture)
    for name, graph in graphs.by_name().items():
        for path in (*graph.files, *graph.weights):
            if path not in files:
                raise ValueError(f"graph {name} names {path}, which the table of files does not list")


def _check_components(graphs: Graphs, architecture: Architecture) -> None:
    """Text encoders and VAE fit to the UNet: one input each, and what the runner reads of them first.

    SDXL's two encoders write the denoiser's text side by side, and the second one its pooled embedding.
    """
    a = architecture
    latent, picture = a.latent_shape, (1, 3, a.image_height, a.image_width)
    mean, side = a.reference_latent_shape, a.reference_side
    moments = (1, 2 * a.latent_channels, *mean[2:])
    ids, second = (1, a.text_length), graphs.text_encoder_2
    pooled = None if second is None or len(second.outputs) != 2 else second.outputs[1].shape
    if pooled != (None if a.pooled_width is None else (1, a.pooled_width)) or (second and not pooled):
        raise ValueError(
            f"a second text encoder that gives a pooled embedding and pooled_width {a.pooled_width} belong together, "
            f"received {pooled}"
        )
    wide = 0 if second is None else second.outputs[0].shape[-1]
    encoders = [("text_encoder", graphs.text_encoder, a.text_width - wide)]
    encoders += [] if second is None else [("text_encoder_2", second, wide)]
    for name, graph, given, made in (
        *((name, graph, ids, ((1, a.text_length, width),)) for name, graph, width in encoders),
        ("vae_encoder", graphs.vae_encoder, (1, 3, side, side), (mean, moments)),
        ("vae_decoder", graphs.vae_decoder, latent, (picture,)),
    ):
        inputs, output = [spec.shape for spec in graph.inputs], graph.outputs[0]
        if inputs != [given] or output.shape not in made or not output.dtype.startswith("float"):
            raise ValueError(
                f"{name}: one input {list(given)} and a float output {list(made[0])} are expected, received "
                f"{[list(shape) for shape in inputs]} and {list(output.shape)} {output.dtype}"
            )


def _check_decoder(graphs: Graphs, architecture: Architecture) -> None:
    """Head and strips belong together and lead from a latent to a picture."""
    head, strips = graphs.vae_decoder_head, graphs.vae_decoder_strips
    if (head is None) != (not strips):
        raise ValueError("a decoder's head and its strips belong together; one is missing")
    if head is None:
        return
    inputs, outputs = ([spec.shape for spec in specs] for specs in (head.inputs, head.outputs))
    if inputs != [architecture.latent_shape] or len(outputs) != 1 or len(outputs[0]) != 4:
        raise ValueError(
            f"vae_decoder_head: one input {list(architecture.latent_shape)} and one output [1, c, h, w] are "
            f"expected, received {inputs} and {outputs}"
        )
    check_strips(outputs[0], strips, (3, architecture.image_height, architecture.image_width))


def _same_tensors(place: str, received: tuple[TensorSpec, ...], expected: tuple[TensorSpec, ...]) -> None:
    """Names, shapes and dtypes in order; the meaning is prose and may differ."""
    for have, want in zip(received, expected, strict=False):
        if (have.name, have.shape, have.dtype) != (want.name, want.shape, want.dtype):
            raise ValueError(
                f"{place}: {want.name} {list(want.shape)} {want.dtype} is expected, "
                f"received {have.name} {list(have.shape)} {have.dtype}"
            )
        if have.multiples != want.multiples:
            raise ValueError(
                f"{place}: {want.name} of up to {want.multiples} references is expected, "
                f"received {have.multiples}"
            )
    if len(received) != len(expected):
        raise ValueError(f"{place}: {len(expected)} tensors are expected, received {len(received)}")
