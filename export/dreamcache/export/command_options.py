"""Options of `dreamcache export` and `dreamcache convert`, as typer shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MODEL, _SPEED, _COREML, _OUTPUT = "Model", "Precision and speed", "Core ML", "Output"

BaseName = Annotated[
    str | None,
    typer.Option(
        help="Base: diffusers folder, Hub id, .safetensors checkpoint, or mini (the shipped miniature).",
        rich_help_panel=_MODEL,
    ),
]
RandomArchitecture = Annotated[
    str | None,
    typer.Option(
        help="Architecture with random weights, to measure devices: sd15, sd21, bk-sdm-tiny …",
        rich_help_panel=_MODEL,
    ),
]
BaseConfig = Annotated[
    str | None,
    typer.Option(
        help="Config of a checkpoint: a diffusers folder of its kind, or sd15, sd21, sd21-base …",
        rich_help_panel=_MODEL,
    ),
]
Variant = Annotated[
    str | None, typer.Option(help="Variant of the base's weights, such as fp16.", rich_help_panel=_MODEL)
]
SamplingName = Annotated[
    str | None,
    typer.Option(
        help="Sampling of the base: standard, lcm or turbo; default: as its configs say.",
        rich_help_panel=_MODEL,
    ),
]
AdaptersFile = Annotated[
    Path | None,
    typer.Option(help="Adapters trained on the base (.safetensors).", rich_help_panel=_MODEL),
]
PrecisionName = Annotated[
    str,
    typer.Option(help="Precision of ONNX graphs: fp32, fp16 (storage) or int8.", rich_help_panel=_SPEED),
]
CalibrationPrompts = Annotated[
    Path | None,
    typer.Option(
        help="Text file, one prompt per line, to calibrate int8; default: a built-in list.",
        rich_help_panel=_SPEED,
    ),
]
KvDownsample = Annotated[
    int,
    typer.Option(
        help="Cells, N x N, over which the topmost self-attention averages keys and values; 1 = exact.",
        rich_help_panel=_SPEED,
    ),
]
ReferenceDownsample = Annotated[
    int,
    typer.Option(
        help="Cells, N x N, over which the topmost reference tokens are averaged; 1 = exact.",
        rich_help_panel=_SPEED,
    ),
]
MaxReferences = Annotated[
    int,
    typer.Option(
        help="References that the denoiser takes at once; more than 1 needs ONNX and --attention mha.",
        rich_help_panel=_SPEED,
    ),
]
Resolution = Annotated[
    int | None,
    typer.Option(
        help="Side of the square picture in pixels; default: the base's own.", rich_help_panel=_SPEED
    ),
]
Batch = Annotated[int, typer.Option(help="Fixed batch of the denoiser.", rich_help_panel=_SPEED)]
AttentionName = Annotated[
    str,
    typer.Option(
        help="Attention of ONNX graphs: mha (ONNX Runtime's operator) or plain (standard operators).",
        rich_help_panel=_SPEED,
    ),
]
CoreMLValues = Annotated[
    list[str] | None,
    typer.Option(
        "--coreml",
        metavar="NAME=VALUE",
        help="Core ML option: target, attention, weights, psnr_db, size_mb, resolutions or chunk_unet; "
        "repeatable; docs/coreml.md describes them.",
        rich_help_panel=_COREML,
    ),
]
Target = Annotated[
    str, typer.Option(help="Sides of the bundle: onnx, coreml or all.", rich_help_panel=_OUTPUT)
]
BundleFolder = Annotated[
    Path, typer.Option(metavar="BUNDLE", help="Folder of the new bundle.", rich_help_panel=_OUTPUT)
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing output.", rich_help_panel=_OUTPUT)
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the parity report as JSON.", rich_help_panel=_OUTPUT)
]
