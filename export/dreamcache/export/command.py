"""The subcommand `dreamcache export`."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dreamcache.export.coreml.options import chosen
from dreamcache.export.errors import ExportError, refuse_unknown

if TYPE_CHECKING:
    from dreamcache.export.bundle import WriteCoreML
    from dreamcache.export.coreml.options import Choices
    from dreamcache.export.modules.attention import AttentionKind
    from dreamcache.export.progress import Stages
    from dreamcache.export.resources import Precision
    from dreamcache.export.source import Source
    from dreamcache.models.bases.distillation import Sampling
    from dreamcache.runtime.bundle.architecture import Architecture
    from dreamcache.runtime.bundle.contract import Contract
    from dreamcache.runtime.bundle.coreml import CoreMLPart

_TARGETS = ("onnx", "coreml", "all")
_PRECISIONS = ("fp32", "fp16", "int8")
_ATTENTIONS = ("mha", "plain")
_SAMPLINGS = ("standard", "lcm", "turbo")


def export(
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="Diffusers folder, Hub id, .safetensors checkpoint, or mini (the shipped miniature)."
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(help="sd15, sd21, bk-sdm-tiny … with random weights, to measure devices with."),
    ] = None,
    base_config: Annotated[
        str | None,
        typer.Option(help="For a checkpoint: a diffusers folder of its kind, or sd15, sd21, sd21-base …"),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Weights of the base, such as fp16.")] = None,
    sampling: Annotated[
        str | None, typer.Option(help="standard, lcm or turbo; by default as the base's configs say.")
    ] = None,
    adapters: Annotated[
        Path | None, typer.Option(help="Adapters trained on the base (.safetensors).")
    ] = None,
    target: Annotated[str, typer.Option(help="onnx, coreml or all.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16 (storage) or int8.")] = "fp32",
    calibration_prompts: Annotated[
        Path | None, typer.Option(help="For int8: a text file with a prompt on each line.")
    ] = None,
    kv_downsample: Annotated[
        int,
        typer.Option(help="Average self-attention's keys and values at the top resolution over N x N cells."),
    ] = 1,
    reference_downsample: Annotated[
        int, typer.Option(help="Average the reference's tokens at the top resolution over N x N cells.")
    ] = 1,
    max_references: Annotated[
        int, typer.Option(help="References that the denoiser takes at once (ONNX, --attention mha).")
    ] = 1,
    resolution: Annotated[int | None, typer.Option(help="Pixels of the square picture.")] = None,
    batch: Annotated[int, typer.Option(help="Fixed batch of the denoiser.")] = 1,
    attention: Annotated[
        str, typer.Option(help="mha (ONNX Runtime's operator) or plain (standard operators).")
    ] = "mha",
    coreml_target: Annotated[
        str, typer.Option(help="Oldest system for Core ML: iOS16, iOS17, iOS18.")
    ] = "iOS18",
    coreml_attention: Annotated[
        str, typer.Option(help="plain (CPU and GPU) or split_einsum (Neural Engine).")
    ] = "plain",
    coreml_weights: Annotated[
        str, typer.Option(help="Core ML UNet's weights: fp16, int8, palette6, palette4 or mixed.")
    ] = "fp16",
    coreml_psnr: Annotated[
        float | None, typer.Option(help="For mixed: least signal to noise of the denoiser, in dB.")
    ] = None,
    coreml_size: Annotated[
        float | None, typer.Option(help="For mixed: at most so many MB of the denoiser's weights.")
    ] = None,
    coreml_resolution: Annotated[
        list[int] | None,
        typer.Option(help="A further square that the Core ML packages take, in pixels; repeatable."),
    ] = None,
    chunk_unet: Annotated[
        bool, typer.Option("--chunk-unet", help="Core ML UNet in two packages of half the size.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the parity report as JSON.")] = False,
) -> None:
    """Export a base and its adapters from PyTorch to a bundle, checked against PyTorch."""
    if (base is None) == (architecture is None):
        raise typer.BadParameter("exactly one is expected", param_hint="'--base' / '--architecture'")
    if architecture is not None and adapters is not None:
        raise typer.BadParameter("random weights take no trained adapters", param_hint="'--adapters'")
    if architecture is not None and any(option is not None for option in (base_config, variant, sampling)):
        raise typer.BadParameter(
            "belong to --base", param_hint="'--base-config' / '--variant' / '--sampling'"
        )
    if sampling is not None:
        refuse_unknown("--sampling", sampling, _SAMPLINGS)
    refuse_unknown("--target", target, _TARGETS)
    refuse_unknown("--precision", precision, _PRECISIONS)
    refuse_unknown("--attention", attention, _ATTENTIONS)
    if target != "onnx" and find_spec("coremltools") is None:
        raise ExportError(
            f"--target {target} needs coremltools; install it with: pip install 'dreamcache[coreml]'"
        )

    choices = chosen(
        coreml_target,
        coreml_attention,
        coreml_weights,
        least_db=coreml_psnr,
        most_mb=coreml_size,
        chunked=chunk_unet,
        resolutions=tuple(coreml_resolution or ()),
    )
    if max_references > 1 and (target != "onnx" or attention != "mha"):
        raise ExportError(
            f"--max-references {max_references}: several references go with --target onnx and --attention mha"
        )
    prompts = _prompts(calibration_prompts, precision)
    _quiet_imports()
    from dreamcache.export.atomic_folder import check_place
    from dreamcache.export.bundle import export_bundle
    from dreamcache.export.onnx_bundle import OnnxChoices
    from dreamcache.export.resources import check_resources
    from dreamcache.export.source import planned_size, random_source, trained_source
    from dreamcache.runtime.progress import stage_bar
    from dreamcache.runtime.sessions.allocator import reuse_freed_blocks

    check_place(out, overwrite)
    reuse_freed_blocks()
    with ExitStack() as stack:
        progress = stack.enter_context(stage_bar())
        progress("loading the model", 0, 1)
        precise = cast("Precision", precision)
        check_resources(
            planned_size(base, architecture, adapters, variant),
            out,
            None if target == "coreml" else precise,
            _side(resolution),
            coreml=target != "onnx",
        )
        if architecture is not None:
            source = random_source(architecture, Path(stack.enter_context(TemporaryDirectory())))
        else:
            assert base is not None
            source = trained_source(
                base,
                adapters,
                base_config=base_config,
                variant=variant,
                sampling=cast("Sampling | None", sampling),
            )
        contract = export_bundle(
            source,
            out,
            resolution=resolution,
            batch=batch,
            key_value_pool=kv_downsample,
            reference_pool=reference_downsample,
            max_references=max_references,
            onnx=None
            if target == "coreml"
            else OnnxChoices(precise, cast("AttentionKind", attention), prompts),
            coreml=None if target == "onnx" else _coreml(choices, reference_downsample),
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(_as_json(out, contract) if as_json else _as_text(out, contract))


def _coreml(choices: Choices, reference_pool: int) -> WriteCoreML:
    """What writes the Core ML side."""
    from dreamcache.export.coreml.export import export_coreml

    def write(source: Source, folder: Path, architecture: Architecture, stages: Stages) -> CoreMLPart:
        return export_coreml(source, folder, architecture, choices, stages.note, reference_pool)

    return write


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


def _side(resolution: int | None) -> int:
    """Pixels to estimate with: the base's own, 512 of nearly all, where none are asked for."""
    return 512 if resolution is None else resolution


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
        parity = contract.parity
        lines.append(f"against PyTorch: {_decibels(parity.psnr_db)}")
        lines.append(
            f"condition over PyTorch's: {_ratios(parity.condition)}; "
            f"two UNet graphs over one on disk: {parity.disk_ratio:.3f}"
        )
    if contract.coreml is not None:
        part = contract.coreml
        lines.append(f"Core ML against PyTorch: {_decibels(part.psnr_db)}")
        lines.append(
            f"condition over PyTorch's: {_ratios(part.condition)}; "
            f"UNet over its denoiser on disk: {part.disk_ratio:.3f}"
        )
    return "\n".join(lines)


def _decibels(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {db:.0f} dB" for name, db in values.items())


def _ratios(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {ratio:.4f}" for name, ratio in values.items())
