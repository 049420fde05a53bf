"""`dreamcache.json`: everything that the runner needs to know about a bundle (docs/concepts/bundle.md).

The exporter writes these models, the runner reads them, and nothing guesses from names. A contract that contradicts
itself is refused.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from dreamcache.runtime.bundle.architecture import Architecture, SiteSpec, cache_tensors
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.bundle.graphs import (
    Graphs,
    GraphSpec,
    SegmenterSpec,
    StripSpec,
    check_graphs,
    graph_fingerprint,
    strip_name,
)
from dreamcache.runtime.bundle.parity import ParityReport
from dreamcache.runtime.bundle.sampling import (
    GuidanceDefaults,
    GuidanceMode,
    SchedulerKind,
    SchedulerSpec,
    SigmaSpacing,
)
from dreamcache.runtime.bundle.tensors import BundlePath, ContractModel, FileRecord, Sha256, TensorSpec
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.untrusted import parse_json

__all__ = [
    "CONTRACT_NAME",
    "FORMAT_VERSION",
    "AddedConditions",
    "Architecture",
    "Contract",
    "FileRecord",
    "Fingerprints",
    "GraphSpec",
    "Graphs",
    "GuidanceDefaults",
    "GuidanceMode",
    "JoinedSpec",
    "OverridesSpec",
    "ParityReport",
    "Precision",
    "SchedulerKind",
    "SchedulerSpec",
    "SegmenterSpec",
    "SigmaSpacing",
    "SiteSpec",
    "StripSpec",
    "TensorSpec",
    "TextSpec",
    "VaeSpec",
    "cache_tensors",
    "dump_contract",
    "graph_fingerprint",
    "needed_format",
    "parse_contract",
    "strip_name",
]

FORMAT_VERSION = 2
"""The newest that this version reads; bundles that version 0.1 understands are written as 1."""
CONTRACT_NAME = "dreamcache.json"
MAX_CONTRACT_BYTES = 16 << 20

Precision = Literal["fp32", "fp16", "int8", "web", "web8"]
"""How the ONNX graphs store and compute weights (docs/guides/export.md)."""


TokenId = Annotated[int, Field(ge=0, lt=1 << 31)]


class TextSpec(ContractModel):
    """The tokenizer's folder and its special tokens; the length is the architecture's `text_length`.

    vectors: of tokens that textual inversions trained with several: a prompt's <t> stands for <t> <t>_1 and so on.
    """

    newer = ("vectors",)

    folder: BundlePath = "tokenizer"
    bos_id: TokenId
    eos_id: TokenId
    pad_id: TokenId
    vectors: dict[str, Annotated[int, Field(ge=2, le=1000)]] = Field(default={})


class AddedConditions(ContractModel):
    """What SDXL's UNet reads in addition (docs/concepts/bundle.md, "SDXL").

    time_ids: original height and width, crop's top and left, target height and width, in pixels; a constant.
    force_zeros_for_empty_prompt: whether an empty negative prompt is zeros in the place of embeddings.
    """

    time_ids: tuple[
        NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt, NonNegativeInt
    ]
    force_zeros_for_empty_prompt: bool = True


class VaeSpec(ContractModel):
    """Latents are scaled as (mean - shift_factor) * scaling_factor."""

    scaling_factor: Annotated[float, Field(ge=1e-4, le=1e4)]
    shift_factor: Annotated[float, Field(ge=-1e4, le=1e4)] | None = None


class JoinedSpec(ContractModel):
    """What was added to the base before the export; base fingerprints are those of the base without it.

    name: of the file, folder or Hub id. sha256: over its weight files, one after the other. weight: of a LoRA.
    tokens: of a textual inversion.
    """

    kind: Literal["vae", "lora", "textual_inversion"]
    name: str
    sha256: Sha256
    weight: float | None = None
    tokens: tuple[str, ...] = ()


class OverridesSpec(ContractModel):
    """What the export was told of the base in the place of its files; each as `dreamcache export` has it.

    clip_skip: last layers of the text encoder that were left out. ema: the averaged weights of a checkpoint.
    """

    prediction: Literal["epsilon", "v_prediction"] | None = None
    zero_terminal_snr: bool = False
    clip_skip: NonNegativeInt = 0
    ema: bool = False


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

    newer = ("joined", "text_2", "added_conditions", "overrides")

    format_version: PositiveInt = 1
    architecture: Architecture
    weights: Literal["trained", "random"]
    precision: Precision
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
    joined: tuple[JoinedSpec, ...] = ()
    text_2: TextSpec | None = None
    added_conditions: AddedConditions | None = None
    overrides: OverridesSpec | None = None

    @property
    def graphs(self) -> Graphs:
        """The graphs for ONNX Runtime.

        Raises: BundleError where the bundle was made for Core ML alone.
        """
        if self.onnx is None:
            raise BundleError(
                "this bundle has Core ML packages only, which ONNX Runtime cannot run; "
                "export with --target all for both"
            )
        return self.onnx

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Contract:
        said = (*self.joined, *([] if self.overrides is None else [self.overrides]))
        oldest = needed_format(
            self.architecture, "ddim", self.text, said=said, graphs=self.onnx, precision=self.precision
        )
        if self.format_version < oldest:
            raise ValueError(f"format version {oldest} is expected, received {self.format_version}")
        dual = self.architecture.pooled_width is not None
        if (self.text_2 is not None, self.added_conditions is not None) != (dual, dual):
            raise ValueError("pooled_width, text_2 and added_conditions belong together; one is missing")
        if self.onnx is not None:
            check_graphs(self.onnx, self.architecture, self.files)
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


_PRECISIONS_OF_FORMAT_1: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_OF_FORMAT_1: tuple[SchedulerKind, ...] = ("ddim", "euler", "dpm", "lcm")


def needed_format(
    architecture: Architecture,
    sampler: SchedulerKind = "ddim",
    *parts: ContractModel | None,
    said: tuple[ContractModel, ...] = (),
    graphs: Graphs | None = None,
    precision: Precision = "fp32",
) -> int:
    """The oldest format that can say what a bundle needs.

    2 where the default sampler is newer, something was joined to or said of the base, the architecture (a reference of
    its own size, SDXL, prompts of several chunks) or a part has entries that 0.1 does not know, there is a segmenter,
    a graph has two forms, or the precision is newer.
    """
    specs = [] if graphs is None else graphs.by_name().values()
    segmenter = graphs is not None and graphs.segmenter is not None
    portable = any(spec.portable is not None for spec in specs)
    asked = [part for part in (architecture, *parts) if part is not None]
    newer = any(part.model_dump().keys() & set(part.newer) for part in asked)
    newer |= precision not in _PRECISIONS_OF_FORMAT_1
    return 1 if sampler in _OF_FORMAT_1 and not (newer or said or segmenter or portable) else 2


def dump_contract(contract: Contract) -> str:
    """The text of `dreamcache.json`."""
    return contract.model_dump_json(indent=2, by_alias=True) + "\n"


def parse_contract(text: str | bytes) -> Contract:
    """Read the text of `dreamcache.json`.

    Raises: BundleError when it is not JSON, of a newer format, incomplete or contradicts itself.
    """
    try:
        raw: Any = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{CONTRACT_NAME} is not valid JSON ({error}); export the bundle again") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise BundleError(f"{CONTRACT_NAME} has no integer format_version; is this a DreamCache bundle?")
    if version > FORMAT_VERSION:
        raise BundleError(
            f"bundle format {version} is newer than {FORMAT_VERSION}, the newest this version reads; "
            "update with: pip install --upgrade dreamcache"
        )
    try:
        return Contract.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{CONTRACT_NAME} is not usable: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    """The first problem as one line, with the place in the JSON and how many more there are."""
    problems = error.errors(include_url=False, include_context=False)
    place = ".".join(str(part) for part in problems[0]["loc"]) or "the contract"
    # A part that is refused while another is checked brings its own several lines.
    message = " ".join(re.sub(r"^Value error, ", "", problems[0]["msg"]).split())
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{place}: {message}{more}"
