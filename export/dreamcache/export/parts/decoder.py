"""Writing the VAE decoder: whole, and in strips where its maps are large; one weights file for all.

How it is cut is decided by size: the strips begin at the first upsampler that makes a map of more than
`CUT_BYTES`, and each run reads as many rows as make `WINDOW_BYTES`, at least `WINDOW_ROWS`. A decoder without so
large a map gets no strips, since there is nothing to gain: Stable Diffusion's has one from 256 px on, the miniature
none. TAESD, whose whole decoder takes a fifth of the plain one's memory, gets none either.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.upsampling import Upsample2D
from torch import nn

from dreamcache.export.declare.components import declare_vae_decoder
from dreamcache.export.graphs.shared_weights import write_shared
from dreamcache.export.graphs.trace import export_graph
from dreamcache.export.modules.attention import AttentionKind
from dreamcache.export.modules.decoder import (
    CutStrip,
    DecoderHead,
    can_cut,
    cut_strips,
    whole_decoder,
)
from dreamcache.models.bases.parts.autoencoder import Autoencoder
from dreamcache.runtime.bundle.contract import GraphSpec, StripSpec
from dreamcache.runtime.bundle.decoder_strips import even_rows, scale_of, strip_inputs, strip_outputs
from dreamcache.runtime.bundle.tensors import TensorSpec

VAE_DECODER = "vae_decoder/model.onnx"
VAE_DECODER_HEAD = "vae_decoder/head.onnx"
VAE_DECODER_STRIP = "vae_decoder/strip_{:02d}.onnx"
VAE_DECODER_WEIGHTS = "vae_decoder/weights.data"

CUT_BYTES = 1 << 25
"""A map of at most 32 MiB is small beside the weights of the layers that make it."""
WINDOW_BYTES = 1 << 22
"""A run holds a handful of maps of this size."""
WINDOW_ROWS = 16
"""Rows of a result that a window of a large picture gives at least, so that few are computed twice."""


@dataclass(frozen=True)
class DecoderSpecs:
    """The decoder's graphs as the contract declares them; no head and no strips where nothing is cut."""

    whole: GraphSpec
    head: GraphSpec | None
    strips: tuple[StripSpec, ...]


@torch.no_grad()
def export_decoder(
    vae: Autoencoder,
    folder: Path,
    latent_height: int,
    latent_width: int,
    attention: AttentionKind,
    *,
    cut_bytes: int = CUT_BYTES,
    window_bytes: int | None = None,
) -> DecoderSpecs:
    """Write every graph of the decoder below `folder`.

    Raises:
        ExportError: the decoder cannot be exported.
    """
    specs = plan_decoder(vae, latent_height, latent_width, cut_bytes=cut_bytes, window_bytes=window_bytes)
    modules: list[tuple[nn.Module, GraphSpec]] = [(whole_decoder(vae, attention), specs.whole)]
    cut = find_cut(vae, latent_height, latent_width, cut_bytes)
    if cut is not None and specs.head is not None:
        modules.append((DecoderHead(vae, attention, cut), specs.head))
        strips = zip(cut_strips(vae, cut), specs.strips, strict=True)
        modules += [(strip.module, spec) for strip, spec in strips]
    models = {
        Path(spec.file).name: export_graph(module, spec.inputs, spec.outputs) for module, spec in modules
    }
    place = (folder / VAE_DECODER).parent
    place.mkdir()
    write_shared(place, models, Path(VAE_DECODER_WEIGHTS).name)
    return specs


def plan_decoder(
    vae: Autoencoder,
    latent_height: int,
    latent_width: int,
    *,
    cut_bytes: int = CUT_BYTES,
    window_bytes: int | None = None,
) -> DecoderSpecs:
    """The graphs as the contract declares them, before any is written."""
    tensors = declare_vae_decoder(vae, latent_height, latent_width)
    (latent,), (sample,) = tensors.inputs, tensors.outputs
    whole = _spec(VAE_DECODER, latent, sample)
    cut = find_cut(vae, latent_height, latent_width, cut_bytes)
    if cut is None:
        return DecoderSpecs(whole, None, ())
    strips = [
        _declare(strip, VAE_DECODER_STRIP.format(index), latent_height, latent_width, window_bytes)
        for index, strip in enumerate(cut_strips(vae, cut))
    ]
    features = TensorSpec(
        name="features",
        shape=(1, strips[0].inputs[0].shape[1], latent_height * 2**cut, latent_width * 2**cut),
        dtype="float32",
        meaning="the map that the strips start from",
    )
    return DecoderSpecs(whole, _spec(VAE_DECODER_HEAD, latent, features), tuple(strips))


def find_cut(vae: Autoencoder, latent_height: int, latent_width: int, cut_bytes: int) -> int | None:
    """The block whose upsampler is the first to make a map of more than `cut_bytes`; None: nothing to cut."""
    if not isinstance(vae, AutoencoderKL) or not can_cut(vae):
        return None
    for i, block in enumerate(list(vae.decoder.up_blocks)[:-1]):
        upsampler = block.upsamplers[0]
        assert isinstance(upsampler, Upsample2D)
        pixels = latent_height * latent_width * 4 ** (i + 1)
        if 4 * upsampler.out_channels * pixels > cut_bytes:
            return i
    return None


def _declare(
    strip: CutStrip, file: str, latent_height: int, latent_width: int, window_bytes: int | None
) -> StripSpec:
    height, width, k = latent_height * strip.scale, latent_width * strip.scale, scale_of(strip.kind)
    row_bytes = 4 * max(strip.channels, strip.out_channels * k * k) * width
    usual = max(WINDOW_BYTES // row_bytes, WINDOW_ROWS // k)
    rows = even_rows(height, usual if window_bytes is None else window_bytes // row_bytes, k)
    shortcut = getattr(strip.module, "shortcut", None) is not None
    return StripSpec(
        file=file,
        weights=(VAE_DECODER_WEIGHTS,),
        inputs=strip_inputs(strip.kind, strip.channels, rows, width, strip.groups, strip.out_channels),
        outputs=strip_outputs(strip.kind, strip.out_channels, rows, width, strip.module.groups, shortcut),
        kind=strip.kind,
    )


def _spec(file: str, taken: TensorSpec, given: TensorSpec) -> GraphSpec:
    return GraphSpec(file=file, weights=(VAE_DECODER_WEIGHTS,), inputs=(taken,), outputs=(given,))
