"""The subcommand `dreamcache export`."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast, get_args

import typer

from dreamcache.export import command_options
from dreamcache.export.errors import ExportError, refuse_unknown
from dreamcache.export.options import (
    Approximations,
    CoreMLOptions,
    OnnxAttention,
    OnnxOptions,
    check_targets,
)
from dreamcache.models.bases.parts.overrides import AS_CONFIGURED, Overrides
from dreamcache.runtime.arguments import read_assignments, with_values
from dreamcache.runtime.bundle.contract import Precision, SchedulerKind
from dreamcache.runtime.cli.words import shown

if TYPE_CHECKING:
    from dreamcache.models.bases.distillation import Sampling
    from dreamcache.models.bases.parts.overrides import Prediction
    from dreamcache.runtime.bundle.contract import Contract
    from dreamcache.runtime.bundle.coreml import CoreMLPart
    from dreamcache.runtime.bundle.parity import ParityReport

RENAMED = {
    "--coreml-target": "is now --coreml target=SYSTEM",
    "--coreml-attention": "is now --coreml attention=KIND",
    "--coreml-weights": "is now --coreml weights=FORMAT",
    "--coreml-psnr": "is now --coreml psnr_db=DB",
    "--coreml-size": "is now --coreml size_mb=MB",
    "--coreml-resolution": "is now --coreml resolutions=PIXELS,PIXELS",
    "--chunk-unet": "is now --coreml chunk_unet=true",
    "--reference-tokens": "is gone, since it was slower than all tokens; leave it out",
}
"""Old spellings, each with its answer."""

ONCE = ("--base", "--architecture", "--vae", "--adapters", "--segmenter")
"""Options of which a second one would silently replace the first."""

_TARGETS = ("onnx", "coreml", "all")
_SAMPLINGS = ("standard", "lcm", "turbo", "tcd", "hyper")
_PREDICTIONS = ("epsilon", "v_prediction")
_OF_THE_BASE = " / ".join(
    f"'--{name}'"
    for name in ("base-config", "variant", "sampling", "prediction", "zero-terminal-snr", "clip-skip", "ema")
)


def export(
    *,
    base: command_options.BaseName = None,
    architecture: command_options.RandomArchitecture = None,
    base_config: command_options.BaseConfig = None,
    variant: command_options.Variant = None,
    sampling: command_options.SamplingName = None,
    scheduler: command_options.DefaultScheduler = None,
    vae: command_options.OtherVae = None,
    lora: command_options.Loras = None,
    textual_inversion: command_options.TextualInversions = None,
    prediction: command_options.PredictionName = None,
    zero_terminal_snr: command_options.ZeroTerminalSnr = False,
    clip_skip: command_options.ClipSkip = 0,
    ema: command_options.Ema = False,
    adapters: command_options.AdaptersFile = None,
    segmenter: command_options.Segmenter = None,
    precision: command_options.PrecisionName = "fp32",
    calibration_prompts: command_options.CalibrationPrompts = None,
    kv_downsample: command_options.KvDownsample = 1,
    reference_downsample: command_options.ReferenceDownsample = 1,
    max_references: command_options.MaxReferences = 1,
    text_chunks: command_options.TextChunks = 1,
    resolution: command_options.Resolution = None,
    batch: command_options.Batch = 1,
    attention: command_options.AttentionName = "both",
    coreml: command_options.CoreMLValues = None,
    out: command_options.BundleFolder,
    target: command_options.Target = "onnx",
    overwrite: command_options.Overwrite = False,
    as_json: command_options.AsJson = False,
) -> None:
    """Export a base and its adapters from PyTorch to a bundle, checked against PyTorch."""
    overrides = Overrides(cast("Prediction | None", prediction), zero_terminal_snr, clip_skip, ema)
    way, sampler = _checked_words(sampling, scheduler, prediction)
    own = base_config, variant, way, None if overrides == AS_CONFIGURED else overrides
    _check_model(base, architecture, adapters, lora or textual_inversion, *own)
    onnx_options = _onnx_options(target, precision, attention, calibration_prompts, segmenter)
    coreml_options = _coreml_options(target, coreml)
    check_targets(onnx_options, coreml_options, max_references, text_chunks)
    _quiet_imports()
    from dreamcache.export.atomic_folder import check_place
    from dreamcache.export.bundle import export_bundle
    from dreamcache.export.declare.sizes import PictureSize
    from dreamcache.export.resources import check_resources
    from dreamcache.export.source import Source, planned_size
    from dreamcache.models.bases.joined.additions import Additions
    from dreamcache.runtime.progress import stage_bar
    from dreamcache.runtime.sessions.allocator import reuse_freed_blocks

    size = None if resolution is None else PictureSize.parse(resolution)
    check_place(out, overwrite)
    reuse_freed_blocks()
    with ExitStack() as stack:
        progress = stack.enter_context(stage_bar())
        progress("loading the model", 0, 1)
        planned = planned_size(base, architecture, adapters, variant, vae)
        pixels = planned.pixels if size is None else size.width * size.height
        kind = None if onnx_options is None else onnx_options.precision
        check_resources(planned, out, kind, pixels, coreml=coreml_options is not None)
        if architecture is not None:
            source = Source.random(architecture, Path(stack.enter_context(TemporaryDirectory())), vae)
        else:
            joined = Additions(vae, tuple(lora or ()), tuple(textual_inversion or ()))
            source = Source.load(str(base), adapters, *own[:3], joined, overrides)
        contract = export_bundle(
            source,
            out,
            onnx=onnx_options,
            coreml=coreml_options,
            approximations=Approximations(kv_downsample, reference_downsample),
            resolution=size,
            batch=batch,
            max_references=max_references,
            text_chunks=text_chunks,
            scheduler=sampler,
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(shown(_as_json(out, contract) if as_json else _as_text(out, contract)))


def _check_model(
    base: str | None,
    architecture: str | None,
    adapters: Path | None,
    joined: list[str] | None,
    *of_the_base: object,
) -> None:
    """Raises: BadParameter for options that contradict each other."""
    if (base is None) == (architecture is None):
        raise typer.BadParameter("exactly one is expected", param_hint="'--base' / '--architecture'")
    if architecture is not None and adapters is not None:
        raise typer.BadParameter("random weights take no trained adapters", param_hint="'--adapters'")
    if architecture is not None and any(option is not None for option in of_the_base):
        raise typer.BadParameter("belong to --base", param_hint=_OF_THE_BASE)
    if architecture is not None and joined:
        raise typer.BadParameter("belong to --base", param_hint="'--lora' / '--textual-inversion'")


def _checked_words(
    sampling: str | None, scheduler: str | None, prediction: str | None
) -> tuple[Sampling | None, SchedulerKind | None]:
    """The first two, typed.

    Raises:
        ExportError: an unknown one.
    """
    if sampling is not None:
        refuse_unknown("--sampling", sampling, _SAMPLINGS)
    if scheduler is not None:
        refuse_unknown("--scheduler", scheduler, get_args(SchedulerKind))
    if prediction is not None:
        refuse_unknown("--prediction", prediction, _PREDICTIONS)
    return cast("Sampling | None", sampling), cast(SchedulerKind | None, scheduler)


def _onnx_options(
    target: str, precision: str, attention: str, prompts: Path | None, segmenter: str | None
) -> OnnxOptions | None:
    """Options of the ONNX graphs; None where there are to be none.

    Raises:
        ExportError: an unknown word, or prompts that cannot be read.
    """
    refuse_unknown("--target", target, _TARGETS)
    if segmenter is not None and target == "coreml":
        raise typer.BadParameter(
            "belongs to --target onnx or all: Core ML's converter reads no ONNX", param_hint="'--segmenter'"
        )
    options = OnnxOptions(
        cast(Precision, precision), cast(OnnxAttention, attention), _prompts(prompts, precision), segmenter
    )
    return None if target == "coreml" else options


def _coreml_options(target: str, assignments: list[str] | None) -> CoreMLOptions | None:
    """Options of the Core ML packages; None where there are to be none.

    Raises:
        ExportError: values that contradict each other.
        SettingsError: an unknown name or a value of another type after --coreml.
    """
    packages = with_values(CoreMLOptions(), read_assignments("--coreml", assignments or ()), "--coreml")
    if assignments and target == "onnx":
        raise typer.BadParameter("belongs to --target coreml or all", param_hint="'--coreml'")
    return None if target == "onnx" else packages


def _quiet_imports() -> None:
    """diffusers warns that two packages, optimum and optimum-onnx, share one namespace; they are meant to.

    coremltools warns of every PyTorch newer than itself, and of what only macOS has.
    """
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    logger = logging.getLogger("diffusers.utils.import_utils")
    logger.addFilter(lambda record: "Multiple distributions found" not in record.getMessage())


def _prompts(path: Path | None, precision: str) -> list[str] | None:
    """The file's prompts; None without a file."""
    if path is None:
        return None
    if precision != "int8":
        raise typer.BadParameter("belongs to --precision int8", param_hint="'--calibration-prompts'")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"--calibration-prompts: {path} cannot be read: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ExportError(f"--calibration-prompts: {path} holds no prompts; give one a line")
    return prompts


def _as_json(out: Path, contract: Contract) -> str:
    report = {
        "bundle": str(out),
        "weights": contract.weights,
        "parity": contract.parity.model_dump(mode="json"),
    }
    return json.dumps(report, indent=2, ensure_ascii=False)


def _as_text(out: Path, contract: Contract) -> str:
    size = sum(record.size for record in contract.files.values()) / 1e6
    lines = [f"{out}: {contract.architecture.name}, {contract.weights} weights, {size:.1f} MB"]
    if contract.onnx is not None:
        lines += _parity_lines("", contract.parity, "two UNet graphs over one on disk")
    if contract.coreml is not None:
        lines += _parity_lines("Core ML ", contract.coreml, "UNet over its denoiser on disk")
    return "\n".join(lines)


def _parity_lines(of: str, measured: ParityReport | CoreMLPart, ratio: str) -> list[str]:
    decibels = ", ".join(f"{name} {db:.0f} dB" for name, db in measured.psnr_db.items())
    condition = ", ".join(f"{name} {effect:.4f}" for name, effect in measured.condition.items())
    return [
        f"{of}against PyTorch: {decibels}",
        f"condition over PyTorch's: {condition}; {ratio}: {measured.disk_ratio:.3f}",
    ]
