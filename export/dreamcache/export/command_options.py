"""Options of `dreamcache export` and `dreamcache convert`, as typer shows them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

model = partial(typer.Option, rich_help_panel="Model")
speed = partial(typer.Option, rich_help_panel="Precision and speed")
coreml = partial(typer.Option, rich_help_panel="Core ML")
output = partial(typer.Option, rich_help_panel="Output")

BaseName = Annotated[
    str | None,
    model(
        help="Base: diffusers folder, Hub id (owner/name or owner/name@revision), .safetensors checkpoint, or mini "
        "(the shipped miniature)."
    ),
]
RandomArchitecture = Annotated[
    str | None, model(help="Architecture with random weights, to measure devices: sd15, sd21, bk-sdm-tiny …")
]
BaseConfig = Annotated[
    str | None,
    model(help="Config of a checkpoint: a diffusers folder of its kind, or sd15, sd21, sd21-base …"),
]
Variant = Annotated[str | None, model(help="Variant of the base's weights, such as fp16.")]
SamplingName = Annotated[
    str | None,
    model(
        help="Sampling: standard, lcm, tcd, turbo or hyper; default: as the base's configs and the LoRAs say."
    ),
]
DefaultScheduler = Annotated[
    str | None,
    model(help="Default scheduler of the bundle: ddim, pndm, euler, dpmpp_2m …; default: the base's own."),
]
OtherVae = Annotated[
    str | None,
    model(
        help="VAE in the place of the base's: diffusers folder, Hub id or .safetensors file; "
        "taesd (random) with --architecture."
    ),
]
Loras = Annotated[
    list[str] | None,
    model(metavar="FILE[:WEIGHT]", help="LoRA joined to the base (.safetensors); weight 1; repeatable."),
]
TextualInversions = Annotated[
    list[str] | None,
    model(
        metavar="FILE[:TOKEN]",
        help="Textual inversion joined to the base (.safetensors); default: the file's own token; repeatable.",
    ),
]
PredictionName = Annotated[
    str | None, model(help="Prediction of the UNet: epsilon or v_prediction; default: as its configs say.")
]
ZeroTerminalSnr = Annotated[
    bool,
    model(
        "--zero-terminal-snr",
        help="Noise schedule whose last timestep holds no signal; default: as its config.",
    ),
]
ClipSkip = Annotated[
    int,
    model(
        help="Last layers of the text encoder to leave out, counted as diffusers' clip_skip, for the negative "
        "prompt too; default: 0."
    ),
]
Ema = Annotated[
    bool, model("--ema", help="Averaged (EMA) copy of a checkpoint's UNet; default: the trained one.")
]
AdaptersFile = Annotated[Path | None, model(help="Adapters trained on the base (.safetensors).")]
PrecisionName = Annotated[
    str,
    speed(
        help="Precision of ONNX graphs: fp32, fp16 (storage), int8, web (fp16 arithmetic, for GPUs) "
        "or web8 (8-bit weights alone, for browsers)."
    ),
]
CalibrationPrompts = Annotated[
    Path | None, speed(help="Text file, one prompt per line, to calibrate int8; default: a built-in list.")
]
KvDownsample = Annotated[
    int,
    speed(help="Cells, N x N, over which the topmost self-attention averages keys and values; 1 = exact."),
]
ReferenceDownsample = Annotated[
    int, speed(help="Cells, N x N, over which the topmost reference tokens are averaged; 1 = exact.")
]
MaxReferences = Annotated[
    int, speed(help="References that the denoiser takes at once; more than 1 needs ONNX and fused attention.")
]
TextChunks = Annotated[
    int,
    speed(
        help="Chunks of a prompt, each as long as the text encoder reads (75 tokens for Stable Diffusion); default: 1."
    ),
]
Resolution = Annotated[
    str | None,
    speed(
        metavar="WIDTHxHEIGHT",
        help="Size of the picture in pixels, such as 768x512; one number is a square; default: the base's own.",
    ),
]
Batch = Annotated[int, speed(help="Fixed batch of the denoiser.")]
AttentionName = Annotated[
    str,
    speed(
        help="Attention of ONNX graphs: mha (ONNX Runtime's operator), plain (standard operators) or both."
    ),
]
Segmenter = Annotated[
    str | None,
    model(
        metavar="FILE[:FORM]",
        help="Salient-object model (.onnx) as the bundle's segmenter; FORM: birefnet, isnet, modnet or u2net; "
        "default: the base's own.",
    ),
]
CoreMLValues = Annotated[
    list[str] | None,
    coreml(
        "--coreml",
        metavar="NAME=VALUE",
        help="Core ML option: target, attention, weights, psnr_db, size_mb, resolutions or chunk_unet; "
        "repeatable; docs/guides/coreml.md describes them.",
    ),
]
Target = Annotated[str, output(help="Contents of the bundle: onnx, coreml or all.")]
BundleFolder = Annotated[Path, output(metavar="BUNDLE", help="Folder of the new bundle.")]
Overwrite = Annotated[bool, output("--overwrite", help="Replace an existing output.")]
AsJson = Annotated[bool, output("--json", help="Print the parity report as JSON.")]
