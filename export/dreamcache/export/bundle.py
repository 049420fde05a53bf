"""A bundle (docs/concepts/bundle.md): ONNX graphs, Core ML packages, and the contract last."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from dreamcache.export.atomic_folder import MARKER, check_place, filled_folder
from dreamcache.export.declare.architecture import declare_architecture, declare_versions
from dreamcache.export.declare.settings import SECOND_TOKENIZER, DeclaredSettings, declare_settings
from dreamcache.export.declare.sizes import PictureSize
from dreamcache.export.modules.mapped_weights import map_weights
from dreamcache.export.modules.unet import check_exportable
from dreamcache.export.onnx_bundle import write_onnx
from dreamcache.export.options import EXACT, Approximations, CoreMLOptions, OnnxOptions, check_targets
from dreamcache.export.parity.token_ids import check_token_ids
from dreamcache.export.progress import Stages
from dreamcache.export.resources import is_huge
from dreamcache.export.source import Source
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.overrides import AS_CONFIGURED
from dreamcache.models.checkpoint import adapters_fingerprint, base_fingerprint
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import (
    CONTRACT_NAME,
    Contract,
    FileRecord,
    Fingerprints,
    Graphs,
    JoinedSpec,
    OverridesSpec,
    ParityReport,
    SchedulerKind,
    dump_contract,
    graph_fingerprint,
    needed_format,
)
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.progress import StageProgress


def export_bundle(
    source: Source,
    out: Path,
    *,
    onnx: OnnxOptions | None = OnnxOptions(),  # noqa: B008 (frozen)
    coreml: CoreMLOptions | None = None,
    approximations: Approximations = EXACT,
    resolution: PictureSize | int | str | None = None,
    batch: int = 1,
    max_references: int = 1,
    text_chunks: int = 1,
    scheduler: SchedulerKind | None = None,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> Contract:
    """Export and compare everything with PyTorch before anything appears at `out`.

    Args:
        source: base and adapters.
        out: the bundle's folder.
        onnx: how the graphs for ONNX Runtime are made; None makes none.
        coreml: how the Core ML packages are made; None makes none.
        approximations: of attention at the topmost level.
        resolution: of the picture, such as ``"768x512"``; a number is the side of a square, None the base's own.
        batch: fixed batch of the denoiser.
        max_references: how many references the denoiser for ONNX Runtime takes at once.
        text_chunks: how many times the text encoder's length the denoiser reads of a prompt.
        scheduler: default sampler of the bundle; None is what the adapters recommend, else the base's own.
        overwrite: replace an existing bundle.
        progress: called as each stage begins.

    Raises:
        ExportError: nothing is asked for, the model cannot be exported, or a gate fails.
        OutputError: the place is taken or cannot be written.
    """
    check_targets(onnx, coreml, max_references, text_chunks)
    source = replace(source, base=replace(source.base, text_chunks=text_chunks))
    check_place(out, overwrite)
    stages = Stages(progress)
    stages("checking the model")
    base, conditioned = source.base, source.conditioned
    check_exportable(conditioned)
    size = PictureSize.parse(resolution) if isinstance(resolution, (int, str)) else resolution
    architecture = declare_architecture(
        source.name, base, conditioned, size, batch, approximations, max_references
    )
    pixels = (architecture.image_height, architecture.image_width)
    settings = declare_settings(base, conditioned.config, source.metadata, scheduler, size=pixels)
    if is_huge(base.unet.num_parameters()):
        stages("moving the weights to disk")
        map_weights(base, conditioned, out.absolute().parent)
    with filled_folder(out, overwrite) as folder:
        _write_tokenizers(folder, base, settings)
        _write_index(folder, base)
        graphs, parity, packages = None, ParityReport(), None
        if onnx is not None:
            graphs, parity = write_onnx(source, folder, architecture, settings, onnx, approximations, stages)
        if coreml is not None:
            from dreamcache.export.coreml.export import export_coreml  # needs coremltools

            packages = export_coreml(
                source, folder, architecture, settings, coreml, approximations, stages.note
            )
        stages("hashing")
        contract = _contract(source, folder, architecture, settings, onnx, graphs, parity, packages)
        (folder / CONTRACT_NAME).write_text(dump_contract(contract), encoding="utf-8")
    stages.finish()
    return contract


def _write_tokenizers(folder: Path, base: Base, settings: DeclaredSettings) -> None:
    """One for each text encoder, held to the base's own token ids."""
    base.tokenizer.save_pretrained(folder / "tokenizer")
    check_token_ids(base, folder / "tokenizer", settings.text)
    if base.second is not None and settings.text_2 is not None:
        base.second.tokenizer.save_pretrained(folder / SECOND_TOKENIZER)
        own = replace(base, tokenizer=base.second.tokenizer)
        check_token_ids(own, folder / SECOND_TOKENIZER, settings.text_2)


def _contract(
    source: Source,
    folder: Path,
    architecture: Architecture,
    settings: DeclaredSettings,
    onnx: OnnxOptions | None,
    graphs: Graphs | None,
    parity: ParityReport,
    packages: CoreMLPart | None,
) -> Contract:
    """What is said of everything that was written to `folder`."""
    base, conditioned = source.base, source.conditioned
    files = _file_records(folder)
    joined = tuple(JoinedSpec(**asdict(record)) for record in base.joined)
    overrides = OverridesSpec(**asdict(source.overrides)) if source.overrides != AS_CONFIGURED else None
    if graphs is not None:
        fingerprint = graph_fingerprint(graphs, files)
    else:
        assert packages is not None
        fingerprint = packages.fingerprint(files)
    return Contract(
        format_version=needed_format(
            architecture,
            settings.guidance.scheduler,
            settings.scheduler,
            settings.text,
            said=joined if overrides is None else (*joined, overrides),
            graphs=graphs,
            precision="fp32" if onnx is None else onnx.precision,
        ),
        architecture=architecture,
        weights=source.weights,
        precision="fp16" if onnx is None else onnx.precision,
        attention="plain" if onnx is None or onnx.attention == "plain" else "multi_head_attention",
        cache_timestep=conditioned.config.cache_timestep,
        cache_prompt=conditioned.config.cache_prompt,
        text=settings.text,
        text_2=settings.text_2,
        added_conditions=settings.added_conditions,
        vae=settings.vae,
        scheduler=settings.scheduler,
        guidance=settings.guidance,
        graphs=graphs,
        files=files,
        fingerprints=Fingerprints(
            base=source.fingerprint or base_fingerprint(base.unet),
            adapters=adapters_fingerprint(conditioned),
            graph=fingerprint,
        ),
        parity=parity,
        versions=declare_versions(),
        coreml=packages,
        joined=joined,
        overrides=overrides,
    )


def _write_index(folder: Path, base: Base) -> None:
    """diffusers' table of contents, which class each folder came from, and the base's scheduler config."""
    index = {
        "_class_name": "DreamCachePipeline",
        "unet": ["diffusers", type(base.unet).__name__],
        "vae_encoder": ["diffusers", type(base.vae).__name__],
        "vae_decoder": ["diffusers", type(base.vae).__name__],
        "text_encoder": ["transformers", type(base.text_encoder).__name__],
        "tokenizer": ["transformers", type(base.tokenizer).__name__],
        "scheduler": ["diffusers", str(base.schedule["_class_name"])],
    }
    if base.second is not None:
        index["text_encoder_2"] = ["transformers", type(base.second.encoder).__name__]
        index[SECOND_TOKENIZER] = ["transformers", type(base.second.tokenizer).__name__]
    (folder / "scheduler").mkdir()
    for name, record in (("model_index.json", index), ("scheduler/scheduler_config.json", base.schedule)):
        (folder / name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _file_records(folder: Path) -> dict[str, FileRecord]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {
        path.relative_to(folder).as_posix(): FileRecord(size=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    }
