"""Writing a bundle (DESIGN.md, "The bundle"): graphs, components, gates, and the contract last."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

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
from dreamcache.export.derived_graphs import derive_plain, derive_shallow
from dreamcache.export.graphs import CachingGraph, DenoiserGraph, check_exportable
from dreamcache.export.onnx_graphs import export_graph
from dreamcache.export.parity import measure_parity
from dreamcache.export.partial_folder import MARKER, check_place, filled_folder
from dreamcache.export.shared_weights import SharedFile, write_shared
from dreamcache.models.base import Base
from dreamcache.models.checkpoint import adapters_fingerprint, base_fingerprint
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.contract import (
    CONTRACT_NAME,
    Contract,
    FileRecord,
    Fingerprints,
    Graphs,
    GraphSpec,
    dump_contract,
    graph_fingerprint,
)
from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.tensors import (
    Architecture,
    caching_graph_inputs,
    caching_graph_outputs,
    denoiser_inputs,
    denoiser_outputs,
    plain_inputs,
    plain_outputs,
    shallow_inputs,
)

CACHE_FILE = "unet/cache.onnx"
DENOISER_FILE = "unet/model.onnx"
PLAIN_FILE = "unet/plain.onnx"
SHALLOW_FILE = "unet/shallow.onnx"
WEIGHTS_FILE = "unet/weights.data"

Progress = Callable[[str, int, int], None]
"""Called with the stage that begins, and how many of how many are done."""

_STAGES = 9


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
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Contract:
    """Export to ONNX, fp32, and check every graph against PyTorch before anything appears at `out`.

    Args:
        source: base and adapters.
        out: the bundle's folder.
        resolution: pixels of the square picture; None is the base's own.
        batch: fixed batch of the denoiser.
        attention: ``mha`` for ONNX Runtime's CPU provider, ``plain`` for providers without that operator.
        key_value_pool: self-attention at the topmost level reads keys and values averaged over as many rows and
            columns; 1 is exact.
        reference_pool: likewise for the reference's tokens there.
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
        source.name, source.base, source.conditioned, resolution, batch, key_value_pool, reference_pool
    )
    scheduler, guidance = (
        declare_scheduler(source.base),
        declare_guidance(source.metadata, source.base.sampling),
    )
    with filled_folder(out, overwrite) as folder:
        shared = _write_unet(folder, source, architecture, attention, reference_pool, stages)
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
        graphs = _declare_graphs(architecture, components, decoder)
        stages("comparing with PyTorch")
        disk = _disk_bytes(folder, shared)
        parity = measure_parity(
            folder,
            graphs,
            architecture,
            source.base,
            source.conditioned,
            disk,
            stages.tick,
            reference_pool=reference_pool,
        )
        stages("hashing")
        files = _file_records(folder)
        contract = Contract(
            architecture=architecture,
            weights=source.weights,
            precision="fp32",
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
            parity=parity,
            versions=declare_versions(),
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

    def finish(self) -> None:
        if self._progress is not None:
            self._progress("done", _STAGES, _STAGES)


@torch.no_grad()
def _write_unet(
    folder: Path,
    source: Source,
    architecture: Architecture,
    attention: AttentionKind,
    reference_pool: int,
    stages: _Stages,
) -> SharedFile:
    stages("denoiser graph")
    conditioned = source.conditioned
    denoiser = export_graph(
        DenoiserGraph(conditioned, attention, architecture.key_value_pool),
        denoiser_inputs(architecture),
        denoiser_outputs(architecture),
    )
    stages("caching graph")
    text = source.base.encode_text([conditioned.config.cache_prompt])
    cache = export_graph(
        CachingGraph(conditioned, text, attention, architecture.key_value_pool, reference_pool),
        caching_graph_inputs(architecture),
        caching_graph_outputs(architecture),
    )
    place = (folder / DENOISER_FILE).parent
    place.mkdir()
    graphs = {
        Path(DENOISER_FILE).name: denoiser,
        Path(CACHE_FILE).name: cache,
        Path(PLAIN_FILE).name: derive_plain(
            denoiser, plain_inputs(architecture), plain_outputs(architecture)
        ),
        Path(SHALLOW_FILE).name: derive_shallow(
            denoiser, shallow_inputs(architecture), plain_outputs(architecture)
        ),
    }
    return write_shared(place, graphs, Path(WEIGHTS_FILE).name)


def _disk_bytes(folder: Path, shared: SharedFile) -> tuple[int, int]:
    """Bytes of both UNet graphs with their weights, and of the denoiser with its own."""
    cache, denoiser = (folder / CACHE_FILE).stat().st_size, (folder / DENOISER_FILE).stat().st_size
    return cache + denoiser + shared.weights_bytes, denoiser + shared.first_weights_bytes


def _declare_graphs(
    architecture: Architecture, components: dict[str, GraphSpec], decoder: DecoderSpecs
) -> Graphs:
    return Graphs(
        cache=GraphSpec(
            file=CACHE_FILE,
            weights=(WEIGHTS_FILE,),
            inputs=caching_graph_inputs(architecture),
            outputs=caching_graph_outputs(architecture),
        ),
        denoiser=GraphSpec(
            file=DENOISER_FILE,
            weights=(WEIGHTS_FILE,),
            inputs=denoiser_inputs(architecture),
            outputs=denoiser_outputs(architecture),
        ),
        text_encoder=components["text_encoder"],
        vae_encoder=components["vae_encoder"],
        vae_decoder=decoder.whole,
        vae_decoder_head=decoder.head,
        vae_decoder_strips=decoder.strips,
        plain=GraphSpec(
            file=PLAIN_FILE,
            weights=(WEIGHTS_FILE,),
            inputs=plain_inputs(architecture),
            outputs=plain_outputs(architecture),
        ),
        shallow=GraphSpec(
            file=SHALLOW_FILE,
            weights=(WEIGHTS_FILE,),
            inputs=shallow_inputs(architecture),
            outputs=plain_outputs(architecture),
        ),
    )


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
