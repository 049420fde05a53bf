"""ONNX graphs of a bundle, in one precision, each compared with PyTorch."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.declare.settings import DeclaredSettings
from dreamcache.export.graphs.fp16_arithmetic import HalfArithmetic, rounded_graphs
from dreamcache.export.graphs.portable import add_portable
from dreamcache.export.int8.text_and_vae import quantise_components
from dreamcache.export.modules.attention import AttentionKind
from dreamcache.export.options import Approximations, OnnxOptions
from dreamcache.export.parity.browser import FOR_BROWSERS, with_needs
from dreamcache.export.parity.golden import Stored, check_portable, write_golden
from dreamcache.export.parity.report import measure_parity
from dreamcache.export.parity.torch_reference import TorchModel
from dreamcache.export.parts.decoder import DecoderSpecs, export_decoder
from dreamcache.export.parts.segmenter import export_segmenter
from dreamcache.export.parts.text_and_vae import export_components, rewrite_components
from dreamcache.export.parts.unet import (
    CHANGES,
    UnetSpecs,
    Written,
    declare_unet,
    export_unet,
    make_sampler,
)
from dreamcache.export.progress import Stages
from dreamcache.export.source import Source
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.autoencoder import latent_shift
from dreamcache.runtime.bundle.architecture import Architecture
from dreamcache.runtime.bundle.contract import Graphs, GraphSpec, ParityReport
from dreamcache.runtime.bundle.parity import EIGHT_BITS, MIN_PSNR_DB_BY_PRECISION


def write_onnx(
    source: Source,
    folder: Path,
    architecture: Architecture,
    settings: DeclaredSettings,
    options: OnnxOptions,
    approximations: Approximations,
    stages: Stages,
) -> tuple[Graphs, ParityReport]:
    """Write every graph below `folder`.

    Args:
        source: what is exported.
        folder: of the unfinished bundle.
        architecture: shapes.
        settings: what the contract will say.
        options: how.
        approximations: of attention at the topmost level.
        stages: told what begins.

    Raises:
        ExportError: a graph does not export, or a gate fails.
    """
    base, conditioned = source.base, source.conditioned
    unet, sampling = declare_unet(architecture), None
    if options.precision == "int8":
        sampling = make_sampler(
            base, conditioned, architecture, settings.scheduler, settings.guidance, options.prompts
        )
    attention: AttentionKind = "plain" if options.attention == "plain" else "mha"
    written = export_unet(
        base,
        conditioned,
        folder,
        architecture,
        attention,
        approximations,
        stages.inside,
        sampling,
        precision=options.precision,
        judged=source.weights == "trained",
        portable=options.attention == "both",
    )
    stages("text encoder and VAE")
    components = export_components(base, folder, architecture)
    latent = architecture.latent_height, architecture.latent_width
    # ONNX Runtime Web's fused attention overflows at a large decoder's size.
    plain = options.precision in FOR_BROWSERS
    decoder = export_decoder(base.vae, folder, *latent, "plain" if plain else attention)
    graphs = _declare_graphs(unet, components, decoder)
    if options.precision == "int8":
        stages("text encoder and VAE in 8 bits")
        quantise_components(
            folder, graphs, [_unscaled(base, drawn) for drawn in written.drawn], stages.inside
        )
    change = HalfArithmetic() if options.precision == "web" else CHANGES.get(options.precision)
    if change is not None:
        stages("weights of text encoder and VAE")
        rewrite_components(folder, graphs, change)
    stages("comparing with PyTorch")
    with rounded_graphs(folder, graphs) if options.precision == "web" else nullcontext(folder) as judged:
        parity = measure_parity(
            judged,
            graphs,
            architecture,
            base,
            conditioned,
            written.disk,
            stages.tick,
            precision=options.precision,
            enforce=options.precision not in EIGHT_BITS or source.weights == "trained",
            brief=source.weights == "random",
            approximations=approximations,
        )
    if (segmenter := export_segmenter(base, folder, options.segmenter)) is not None:
        graphs = graphs.model_copy(update={"segmenter": segmenter[0]})
        parity = parity.model_copy(update={"psnr_db": {**parity.psnr_db, "segmenter": segmenter[1]}})
    stages("golden tensors")
    golden = write_golden(folder, graphs, TorchModel(base, conditioned, architecture, approximations))
    return _further_forms(folder, graphs, _with_choice(parity, written), golden, options, written, stages)


def _further_forms(
    folder: Path,
    graphs: Graphs,
    parity: ParityReport,
    golden: Stored,
    options: OnnxOptions,
    written: Written,
    stages: Stages,
) -> tuple[Graphs, ParityReport]:
    """Portable graphs, and what a browser needs."""
    least_db = MIN_PSNR_DB_BY_PRECISION.get(options.precision)
    if options.attention == "both":
        stages("portable graphs")
        graphs = add_portable(folder, graphs)
        own_layers = () if written.portable is None else (graphs.denoiser.file, graphs.cache.file)
        check_portable(folder, graphs, golden, least_db, own_layers)
    if options.precision in FOR_BROWSERS:
        parity = with_needs(parity, folder, graphs, golden, least_db)
    return graphs, parity


def _declare_graphs(unet: UnetSpecs, components: dict[str, GraphSpec], decoder: DecoderSpecs) -> Graphs:
    return Graphs(
        cache=unet.cache,
        denoiser=unet.denoiser,
        text_encoder=components["text_encoder"],
        text_encoder_2=components.get("text_encoder_2"),
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
    if written.portable is not None:
        parity = parity.model_copy(update={"notes": (*parity.notes, written.portable.note())})
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
