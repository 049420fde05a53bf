"""Writing a bundle (docs/bundle.md): the ONNX side, the Core ML side, and the contract last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dreamcache.export.atomic_folder import MARKER, check_place, filled_folder
from dreamcache.export.declare.architecture import (
    declare_architecture,
    declare_guidance,
    declare_scheduler,
    declare_text,
    declare_vae,
    declare_versions,
)
from dreamcache.export.modules.unet import check_exportable
from dreamcache.export.onnx_bundle import OnnxChoices, write_onnx
from dreamcache.export.progress import Stages
from dreamcache.export.source import Source
from dreamcache.models.bases.base import Base
from dreamcache.models.checkpoint import adapters_fingerprint, base_fingerprint
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import (
    CONTRACT_NAME,
    Contract,
    FileRecord,
    Fingerprints,
    ParityReport,
    dump_contract,
    graph_fingerprint,
)
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.progress import StageProgress

WriteCoreML = Callable[[Source, Path, Architecture, Stages], CoreMLPart]
"""Given what is exported, the unfinished bundle and its shapes; told whom to tell what begins."""


def export_bundle(
    source: Source,
    out: Path,
    *,
    resolution: int | None = None,
    batch: int = 1,
    key_value_pool: int = 1,
    reference_pool: int = 1,
    max_references: int = 1,
    onnx: OnnxChoices | None = OnnxChoices(),  # noqa: B008 (frozen)
    coreml: WriteCoreML | None = None,
    overwrite: bool = False,
    progress: StageProgress | None = None,
) -> Contract:
    """Export and compare everything with PyTorch before anything appears at `out`.

    Args:
        source: base and adapters.
        out: the bundle's folder.
        resolution: pixels of the square picture; None is the base's own.
        batch: fixed batch of the denoiser.
        key_value_pool: self-attention at the topmost level reads keys and values averaged over as many rows and
            columns; 1 is exact.
        reference_pool: likewise for the reference's tokens there.
        max_references: how many references the denoiser for ONNX Runtime takes at once.
        onnx: how the graphs for ONNX Runtime are made; None makes none.
        coreml: writes the Core ML packages; None makes none.
        overwrite: replace an existing bundle.
        progress: called as each stage begins.

    Raises:
        ExportError: the model cannot be exported, or a gate fails.
        OutputError: the place is taken or cannot be written.
    """
    check_place(out, overwrite)
    stages = Stages(progress)
    stages("checking the model")
    base, conditioned = source.base, source.conditioned
    check_exportable(conditioned)
    architecture = declare_architecture(
        source.name,
        base,
        conditioned,
        resolution,
        batch,
        key_value_pool,
        reference_pool,
        max_references,
    )
    with filled_folder(out, overwrite) as folder:
        base.tokenizer.save_pretrained(folder / "tokenizer")
        base.scheduler.save_pretrained(folder / "scheduler")
        _write_model_index(folder, base)
        graphs, parity = None, ParityReport()
        if onnx is not None:
            graphs, parity = write_onnx(source, folder, architecture, onnx, stages, reference_pool)
        packages = None if coreml is None else coreml(source, folder, architecture, stages)
        stages("hashing")
        files = _file_records(folder)
        if graphs is not None:
            fingerprint = graph_fingerprint(graphs, files)
        else:
            assert packages is not None
            fingerprint = packages.fingerprint(files)
        contract = Contract(
            architecture=architecture,
            weights=source.weights,
            precision="fp16" if onnx is None else onnx.precision,
            attention="plain" if onnx is None or onnx.attention == "plain" else "multi_head_attention",
            cache_timestep=conditioned.config.cache_timestep,
            cache_prompt=conditioned.config.cache_prompt,
            text=declare_text(base),
            vae=declare_vae(base),
            scheduler=declare_scheduler(base),
            guidance=declare_guidance(source.metadata, base.sampling),
            graphs=graphs,
            files=files,
            fingerprints=Fingerprints(
                base=base_fingerprint(base.unet),
                adapters=adapters_fingerprint(conditioned),
                graph=fingerprint,
            ),
            parity=parity,
            versions=declare_versions(),
            coreml=packages,
        )
        (folder / CONTRACT_NAME).write_text(dump_contract(contract), encoding="utf-8")
    stages.finish()
    return contract


def _write_model_index(folder: Path, base: Base) -> None:
    """diffusers' table of contents: which class each folder came from."""
    index = {
        "_class_name": "DreamCachePipeline",
        "unet": ["diffusers", type(base.unet).__name__],
        "vae_encoder": ["diffusers", type(base.vae).__name__],
        "vae_decoder": ["diffusers", type(base.vae).__name__],
        "text_encoder": ["transformers", type(base.text_encoder).__name__],
        "tokenizer": ["transformers", type(base.tokenizer).__name__],
        "scheduler": ["diffusers", type(base.scheduler).__name__],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _file_records(folder: Path) -> dict[str, FileRecord]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {
        path.relative_to(folder).as_posix(): FileRecord(size=path.stat().st_size, sha256=sha256_file(path))
        for path in paths
    }
