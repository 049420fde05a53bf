"""`dreamcache.json`: everything the runner has to know about a bundle (docs/bundle.md).

The exporter writes these models, the runner reads them, and nothing sniffs names. The shapes of the two
UNet graphs follow from the architecture (`tensors.py`); a contract that contradicts itself is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, model_validator

from dreamcache.runtime.bundle.architecture import (
    Architecture,
    ContractModel,
    SiteSpec,
    TensorSpec,
    cache_tensors,
    caching_graph_inputs,
    denoiser_inputs,
    denoiser_outputs,
    plain_inputs,
    plain_outputs,
    shallow_inputs,
)
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.bundle.decoder_strips import StripKind, check_strips
from dreamcache.runtime.bundle.parity import ParityReport
from dreamcache.runtime.bundle.paths import BundlePath, FileRecord, Sha256
from dreamcache.runtime.bundle.sampling import (
    GuidanceDefaults,
    GuidanceMode,
    SchedulerKind,
    SchedulerSpec,
)
from dreamcache.runtime.errors import BundleError

__all__ = [
    "CONTRACT_NAME",
    "FORMAT_VERSION",
    "Architecture",
    "Contract",
    "FileRecord",
    "Fingerprints",
    "GraphSpec",
    "Graphs",
    "GuidanceDefaults",
    "GuidanceMode",
    "ParityReport",
    "SchedulerKind",
    "SchedulerSpec",
    "SiteSpec",
    "StripSpec",
    "TensorSpec",
    "TextSpec",
    "VaeSpec",
    "cache_tensors",
    "caching_graph_inputs",
    "denoiser_inputs",
    "denoiser_outputs",
    "dump_contract",
    "graph_fingerprint",
    "parse_contract",
]

FORMAT_VERSION = 1
CONTRACT_NAME = "dreamcache.json"


class GraphSpec(ContractModel):
    """One ONNX file, the files that hold its weights, and its tensors as the graph names them."""

    file: BundlePath
    weights: tuple[BundlePath, ...] = ()
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class StripSpec(GraphSpec):
    """One graph of the decoder in strips (`strips.py`); kind: which part of a decoder's block it is."""

    kind: StripKind


class Graphs(ContractModel):
    """The five graphs and those that a bundle may leave out. The UNet's share one weights file.

    text_encoder: token ids [1,n] -> [1,n,c]. vae_encoder: picture [1,3,H,W] in -1…1 -> [1,z or 2z,h,w],
    whose first z channels are the mean. vae_decoder: unscaled latent [1,z,h,w] -> picture [1,3,H,W].
    plain: the stock UNet without adapters. shallow: the denoiser from the deep features of an earlier step on.
    vae_decoder_head, vae_decoder_strips: the decoder again, for less memory: unscaled latent -> features
    [1,c,h,w], then the graphs that make the picture of them strip by strip, in order.
    """

    cache: GraphSpec
    denoiser: GraphSpec
    text_encoder: GraphSpec
    vae_encoder: GraphSpec
    vae_decoder: GraphSpec
    plain: GraphSpec | None = None
    shallow: GraphSpec | None = None
    vae_decoder_head: GraphSpec | None = None
    vae_decoder_strips: tuple[StripSpec, ...] = ()

    def by_name(self) -> dict[str, GraphSpec]:
        """Every graph that is there by its name, in order; a decoder's strip is called `strip_name`."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        strips = {strip_name(index): strip for index, strip in enumerate(found.pop("vae_decoder_strips"))}
        return {name: graph for name, graph in found.items() if graph is not None} | strips


def strip_name(index: int) -> str:
    """What `Graphs.by_name` calls a decoder's strip."""
    return f"vae_decoder_strip_{index}"


class TextSpec(ContractModel):
    """The tokenizer's folder and its special tokens; the length is the architecture's `text_length`."""

    folder: BundlePath = "tokenizer"
    bos_id: NonNegativeInt
    eos_id: NonNegativeInt
    pad_id: NonNegativeInt


class VaeSpec(ContractModel):
    """Latents are scaled as (mean - shift_factor) * scaling_factor."""

    scaling_factor: PositiveFloat
    shift_factor: float | None = None


class Fingerprints(ContractModel):
    """Which base, which adapters and which graphs: a subject file belongs to exactly one triple."""

    base: Sha256
    adapters: Sha256
    graph: Sha256

    def subject(self) -> str:
        """The SHA-256 that a subject file carries."""
        return hashlib.sha256("\n".join((self.base, self.adapters, self.graph)).encode()).hexdigest()


class Contract(ContractModel):
    """The whole of `dreamcache.json`."""

    format_version: PositiveInt = FORMAT_VERSION
    architecture: Architecture
    weights: Literal["trained", "random"]
    precision: Literal["fp32", "fp16", "int8"]
    attention: Literal["multi_head_attention", "plain"]
    cache_timestep: NonNegativeInt = 1
    cache_prompt: str = ""
    text: TextSpec
    vae: VaeSpec
    scheduler: SchedulerSpec
    guidance: GuidanceDefaults
    onnx: Graphs | None = Field(default=None, alias="graphs")
    files: dict[BundlePath, FileRecord]
    fingerprints: Fingerprints
    parity: ParityReport
    versions: dict[str, str]
    coreml: CoreMLPart | None = None

    @property
    def graphs(self) -> Graphs:
        """The graphs for ONNX Runtime.

        Raises: BundleError where the bundle was made for Core ML alone.
        """
        if self.onnx is None:
            raise BundleError(
                "this bundle holds Core ML packages alone, which ONNX Runtime does not run; "
                "export with --target all for both"
            )
        return self.onnx

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Contract:
        if self.onnx is not None:
            _check_graphs(self.onnx, self.architecture, self.files)
            expected_graph = graph_fingerprint(self.onnx, self.files)
        elif self.coreml is not None:
            expected_graph = self.coreml.fingerprint(self.files)
        else:
            raise ValueError("graphs or coreml is expected, received neither")
        for model in () if self.coreml is None else self.coreml.models.values():
            if not any(path.startswith(f"{model.package}/") for path in self.files):
                raise ValueError(f"the table of files lists nothing below {model.package}")
        if self.cache_timestep >= self.scheduler.num_train_timesteps:
            raise ValueError(
                f"a cache timestep below {self.scheduler.num_train_timesteps} is expected, "
                f"received {self.cache_timestep}"
            )
        if self.fingerprints.graph != expected_graph:
            raise ValueError(
                f"graph fingerprint {expected_graph} is expected, received {self.fingerprints.graph}"
            )
        return self


def _check_graphs(graphs: Graphs, architecture: Architecture, files: Mapping[str, FileRecord]) -> None:
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
    _check_decoder(graphs, architecture)
    for name, graph in graphs.by_name().items():
        for path in (graph.file, *graph.weights):
            if path not in files:
                raise ValueError(f"graph {name} names {path}, which the table of files does not list")


def graph_fingerprint(graphs: Graphs, files: Mapping[str, FileRecord]) -> str:
    """SHA-256 over the hashes of the caching graph, the denoiser and their weights."""
    paths = {path for graph in (graphs.cache, graphs.denoiser) for path in (graph.file, *graph.weights)}
    lines = [f"{path} {files[path].sha256}" for path in sorted(paths)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def dump_contract(contract: Contract) -> str:
    """The text of `dreamcache.json`."""
    return contract.model_dump_json(indent=2, by_alias=True) + "\n"


def parse_contract(text: str | bytes) -> Contract:
    """Read the text of `dreamcache.json`.

    Raises: BundleError when it is no JSON, of a newer format, incomplete or contradicts itself.
    """
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{CONTRACT_NAME} is not valid JSON ({error}); export the bundle again") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(f"{CONTRACT_NAME} has no whole-number format_version; is this a DreamCache bundle?")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"bundle format {version} is newer than {FORMAT_VERSION}, the newest this version reads; "
            "update with: pip install --upgrade dreamcache"
        )
    try:
        return Contract.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{CONTRACT_NAME} is not usable: {_first_problem(error)}") from error


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


def _first_problem(error: ValidationError) -> str:
    """The first problem as one line, with the place in the JSON and how many more there are."""
    problems = error.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in problems[0]["loc"]) or "the contract"
    # A part that is refused while another is checked brings its own several lines.
    message = " ".join(re.sub(r"^Value error, ", "", problems[0]["msg"]).split())
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {message}{more}"
