"""Options of an export: ONNX graphs, Core ML packages, approximations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from dreamcache.export.errors import ExportError, refuse_unknown
from dreamcache.runtime.bundle.architecture import MAX_TEXT_CHUNKS
from dreamcache.runtime.bundle.contract import Precision
from dreamcache.runtime.reference.salient import open_salient

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
OnnxAttention = Literal["both", "mha", "plain"]
ONNX_ATTENTIONS: tuple[OnnxAttention, ...] = get_args(OnnxAttention)
CoreMLTarget = Literal["iOS16", "iOS17", "iOS18"]
CoreMLAttention = Literal["plain", "split_einsum"]
WeightFormat = Literal["fp16", "int8", "palette6", "palette4"]
WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)
"""Sorted by bits, most first."""


@dataclass(frozen=True)
class Approximations:
    """Averages at the UNet's topmost level, where the tokens are most; 1 is exact.

    Attributes:
        kv_downsample: rows and columns over which self-attention averages its keys and values (token downsampling,
            Smith et al. 2024).
        reference_downsample: rows and columns over which the reference's tokens are averaged before they become keys
            and values.
    """

    kv_downsample: int = 1
    reference_downsample: int = 1


EXACT = Approximations()


@dataclass(frozen=True)
class OnnxOptions:
    """How the graphs for ONNX Runtime are made.

    Attributes:
        precision: ``fp32``; ``fp16``, weights stored in 16 bits; ``int8``, by layers chosen on the base's own
            trajectories; ``web``, arithmetic in 16 bits for GPUs; or ``web8``, weights alone in 8 bits.
        attention: ``mha``, ONNX Runtime's fused operator; ``plain``, standard operators for providers without it; or
            ``both``, two forms of each graph on the same weights, which version 0.1 does not read.
        prompts: to draw those trajectories with; None takes a list that fits the miniature and photographs.
        segmenter: salient-object model, ``FILE.onnx`` or ``FILE.onnx:FORM``, in the place of the base's own.

    Raises:
        ExportError: an unknown precision or attention.
    """

    precision: Precision = "fp32"
    attention: OnnxAttention = "both"
    prompts: Sequence[str] | None = None
    segmenter: str | None = None

    def __post_init__(self) -> None:
        refuse_unknown("--precision", self.precision, PRECISIONS)
        refuse_unknown("--attention", self.attention, ONNX_ATTENTIONS)


class CoreMLOptions(BaseModel):
    """How the Core ML packages are made; `export --coreml NAME=VALUE` has the same names.

    Raises:
        ExportError: values that contradict each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: CoreMLTarget = Field(
        default="iOS18",
        description="Oldest system. iOS18: one Unet package with two functions on one copy of the weights; "
        "before: a package for each.",
    )
    attention: CoreMLAttention = Field(
        default="plain", description="plain for CPU and GPU, split_einsum for the Neural Engine."
    )
    weights: Literal["fp16", "int8", "palette6", "palette4", "mixed"] = Field(
        default="fp16",
        description="Format of the UNet's weights; int8: a scale for each channel, palettes: 64 or 16 values for "
        "each weight, mixed: a format for each weight, by sensitivity.",
    )
    psnr_db: float | None = Field(
        default=None, description="Least signal to noise of the denoiser in dB; for mixed weights."
    )
    size_mb: float | None = Field(
        default=None, gt=0, description="Largest size of the denoiser's weights in MB; for mixed weights."
    )
    resolutions: tuple[int | Annotated[str, Field(pattern=r"^\d+x\d+$")], ...] = Field(
        default=(),
        description="Further sizes of the picture, such as 768 or 768x512 px, with commas between them.",
    )
    chunk_unet: bool = Field(
        default=False, description="UNet in two packages of half the size; true or false."
    )

    @property
    def shares(self) -> bool:
        """Whether one package has several functions on one copy of the weights."""
        return self.target == "iOS18"

    @property
    def default_format(self) -> WeightFormat:
        """Format of a weight that has none of its own: with ``mixed`` those that the caching graph alone has."""
        return "int8" if self.weights == "mixed" else self.weights

    @field_validator("resolutions", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return value.split(",") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _agree(self) -> CoreMLOptions:
        if self.weights != "fp16" and self.target == "iOS16":
            raise ExportError(
                f"--coreml weights={self.weights}: compressed weights need target=iOS17 or later, received iOS16"
            )
        bounds = (self.psnr_db is not None) + (self.size_mb is not None)
        if bounds != (self.weights == "mixed"):
            raise ExportError(
                "--coreml: exactly one of psnr_db and size_mb is expected with weights=mixed, and none with others; "
                f"received {bounds} with weights={self.weights}"
            )
        return self


def check_targets(
    onnx: OnnxOptions | None, coreml: CoreMLOptions | None, max_references: int = 1, text_chunks: int = 1
) -> None:
    """Check, before any work, that these parts of a bundle can be made.

    Raises:
        ExportError: nothing to make, a missing package, several references where one is possible, or no such number
            of chunks.
        SettingsError: a segmenter that cannot be used.
    """
    if onnx is None and coreml is None:
        raise ExportError(
            "options for ONNX, Core ML or both are expected, received neither; give onnx or coreml"
        )
    if coreml is not None and find_spec("coremltools") is None:
        raise ExportError(
            "Core ML packages need coremltools; install it with: pip install 'dreamcache[coreml]'"
        )
    if max_references > 1 and (coreml is not None or onnx is None or onnx.attention == "plain"):
        raise ExportError(
            f"--max-references {max_references}: several references go with --target onnx and --attention mha or both"
        )
    if not 1 <= text_chunks <= MAX_TEXT_CHUNKS:
        raise ExportError(f"--text-chunks is {text_chunks}; give 1 to {MAX_TEXT_CHUNKS}")
    if onnx is not None and onnx.segmenter is not None:
        open_salient(onnx.segmenter)
