"""Writing a bundle (DESIGN.md, "The bundle"): graphs, components, gates, and the contract last."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.attention import AttentionKind
from dreamcache.export.components import export_components
from dreamcache.export.declarations import (
    declare_architecture,
    declare_guidance,
    declare_scheduler,
    declare_text,
    declare_vae,
    declare_versions,
)
from dreamcache.export.decoder_export import DecoderSpecs, export_decoder
from dreamcache.export.graphs import check_exportable
from dreamcache.export.half import store_components_half
from dreamcache.export.int8.components import quantise_components
from dreamcache.export.parity import measure_parity
from dreamcache.export.partial_folder import MARKER, check_place, filled_folder
from dreamcache.export.unet_export import (
    Precision,
    UnetSpecs,
    Written,
    declare_unet,
    export_unet,
    make_sampling,
)
from dreamcache.models.base import Base, latent_shift
from dreamcache.models.checkpoint import adapters_fingerprint, base_fingerprint
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.contract import (
    CONTRACT_NAME,
    Contract,
    FileRecord,
    Fingerprints,
    Graphs,
    GraphSpec,
    ParityReport,
    dump_contract,
    graph_fingerprint,
)
from dreamcache.runtime.coreml_part import CoreMLPart
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.tensors import Architecture

Progress = Callable[[str, int, int], None]
"""Called with the stage that begins, and how many of how many are done."""

AnotherTarget = Callable[[Path, Architecture, Graphs, Callable[[str], None]], CoreMLPart]
"""Given the unfinished bundle, its shapes and its ONNX graphs, and told whom to tell what begins."""

_STAGES = 8


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        name: of the architecture, as the contract states it.
        base: the text-to-image model.
        conditioned: its UNet with adapters.
        weights: whether the weights were trained, or are random to measure devices with.
        metadata: of the adapters file.
    """

    name: str
    base: Base
    conditioned: ConditionedUNet
    weights: Literal["trained", "random"] = "trained"
    metadata: dict[str, str] = field(default_factory=dict)


def export_bundle(
    source: Source,
    out: Path,
    *,
    resolution: int | None = None,
    batch: int = 1,
    attention: AttentionKind = "mha",
    key_value_pool: int = 1,
    reference_pool: int = 1,
    reference_tokens: float = 1.0,
    precision: Precision = "fp32",
    prompts: Sequence[str] | None = None,
    also: AnotherTarget | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Contract:
    """Export to ONNX and check every graph against PyTorch before anything appears at `out`.

    Args:
        source: base and adapters.
        out: the bundle's folder.
        resolution: pixels of the square picture; None is the base's own.
        batch: fixed batch of the denoiser.
        attention: ``mha`` for ONNX Runtime's CPU provider, ``plain`` for providers without that operator.
        key_value_pool: self-attention at the topmost level reads keys and values averaged over as many rows and
            columns; 1 is exact.
        reference_pool: likewise for the reference's tokens there.
        reference_tokens: share of the reference's tokens that the denoiser takes, those with most of the subject;
            1 is exact.
        precision: ``fp32``; ``fp16``, weights stored in 16 bits; or ``int8``, by layers chosen on the base's own
            trajectories.
        prompts: to draw them with; None takes a list that fits the miniature and photographs.
        also: writes the bundle's Core ML side.
        overwrite: replace an existing bundle.
        progress: called as each stage begins.

    Raises:
        ExportError: the model cannot be exported, or a gate fails.
        OutputError: the place is taken or cannot be written.
    """
    check_place(out, overwrite)
    stages = _Stages(progress)
    stages("checking the model")
    check_exportable(source.conditioned)
    architecture = declare_architecture(
        source.name,
        source.base,
        source.conditioned,
        resolution,
        batch,
        key_value_pool,
        reference_pool,
        reference_tokens,
    )
    scheduler, guidance = (
        declare_scheduler(source.base),
        declare_guidance(source.metadata, source.base.sampling),
    )
    with filled_folder(out, overwrite) as folder:
        unet = declare_unet(architecture)
        sampling = None
        if precision == "int8":
            sampling = make_sampling(
                source.base, source.conditioned, architecture, scheduler, guidance, prompts
            )
        written = export_unet(
            source.base,
            source.conditioned,
            folder,
            architecture,
            attention,
            reference_pool,
            stages.inside,
            sampling,
            half=precision == "fp16",
            judged=source.weights == "trained",
        )
        stages("text encoder and VAE")
        components = export_components(
            source.base, folder, architecture.latent_height, architecture.latent_width
        )
        decoder = export_decoder(
            source.base.vae, folder, architecture.latent_height, architecture.latent_width, attention
        )
        source.base.tokenizer.save_pretrained(folder / "tokenizer")
        source.base.scheduler.save_pretrained(folder / "scheduler")
        _write_model_index(folder, source.base)
        graphs = _declare_graphs(unet, components, decoder)
        if precision == "int8":
            stages("text encoder and VAE in 8 bits")
            latents = [_unscaled(source.base, latent) for latent in written.drawn]
            quantise_components(folder, graphs, latents, stages.inside)
        if precision == "fp16":
            stages("weights in 16 bits")
            store_components_half(folder, graphs)
        stages("comparing with PyTorch")
        parity = measure_parity(
            folder,
            graphs,
            architecture,
            source.base,
            source.conditioned,
            written.disk,
            stages.tick,
            precision=precision,
            enforce=precision != "int8" or source.weights == "trained",
            brief=source.weights == "random",
            reference_pool=reference_pool,
        )
        coreml = None if also is None else also(folder, architecture, graphs, stages.note)
        stages("hashing")
        files = _file_records(folder)
        contract = Contract(
            architecture=architecture,
            weights=source.weights,
            precision=precision,
            attention="multi_head_attention" if attention == "mha" else "plain",
            cache_timestep=source.conditioned.config.cache_timestep,
            cache_prompt=source.conditioned.config.cache_prompt,
            text=declare_text(source.base),
            vae=declare_vae(source.base),
            scheduler=scheduler,
            guidance=guidance,
            graphs=graphs,
            files=files,
            fingerprints=Fingerprints(
                base=base_fingerprint(source.base.unet),
                adapters=adapters_fingerprint(source.conditioned),
                graph=graph_fingerprint(graphs, files),
            ),
            parity=_with_choice(parity, written),
            versions=declare_versions(),
            coreml=coreml,
        )
        (folder / CONTRACT_NAME).write_text(dump_contract(contract), encoding="utf-8")
    stages.finish()
    return contract


class _Stages:
    """Counts stages for whoever draws the progress bar."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._done = -1
        self._title = ""

    def __call__(self, title: str) -> None:
        self._title = title
        self.tick()

    def tick(self) -> None:
        self._done = min(self._done + 1, _STAGES - 1)
        if self._progress is not None:
            self._progress(self._title, self._done, _STAGES)

    def inside(self, title: str, done: int, total: int) -> None:
        """A stage that counts for itself."""
        if self._progress is not None:
            self._progress(title, done, total)

    def note(self, title: str) -> None:
        """A part of the present stage."""
        self.inside(title, self._done, _STAGES)

    def finish(self) -> None:
        if self._progress is not None:
            self._progress("done", _STAGES, _STAGES)


def _declare_graphs(unet: UnetSpecs, components: dict[str, GraphSpec], decoder: DecoderSpecs) -> Graphs:
    return Graphs(
        cache=unet.cache,
        denoiser=unet.denoiser,
        text_encoder=components["text_encoder"],
        vae_encoder=components["vae_encoder"],
        vae_decoder=decoder.whole,
        vae_decoder_head=decoder.head,
        vae_decoder_strips=decoder.strips,
        plain=unet.plain,
        shallow=unet.shallow,
    )


def _with_choice(parity: ParityReport, written: Written) -> ParityReport:
    choice = written.choice
    if choice is None:
        return parity
    if choice.score is None:
        note = "random weights: every layer in its fastest 8-bit format, gates reported and not enforced"
        return parity.model_copy(update={"layers": written.formats, "notes": (*parity.notes, note)})
    kept = ", ".join(choice.kept) or "none"
    note = (
        f"8 bits judged on the base's own trajectories: final latent {choice.score.final_db:.1f} dB, "
        f"effect of the reference {choice.score.reference_ratio:.3f}, of the text {choice.score.text_ratio:.3f}; "
        f"groups that stay in fp32: {kept}"
    )
    update = {
        "layers": written.formats,
        "sensitivity_db": choice.sensitivity_db,
        "judged_db": tuple(round(db, 2) for db in choice.score.latent_db),
        "notes": (*parity.notes, note),
    }
    return parity.model_copy(update=update)


def _unscaled(base: Base, latent: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the VAE decoder takes it."""
    found: NDArray[np.float32] = (latent / base.vae.config.scaling_factor + latent_shift(base.vae)).astype(
        np.float32
    )
    return found


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
