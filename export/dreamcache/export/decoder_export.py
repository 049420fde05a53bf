"""Writing the VAE decoder: whole, and in strips where its maps are large; one weights file for all.

How it is cut is decided by size: the strips begin at the first upsampler that makes a map of more than
`CUT_BYTES`, and each run reads as many rows as make `WINDOW_BYTES`. A decoder without so large a map gets no
strips, since there is nothing to gain: Stable Diffusion's has one from 256 px on, the miniature none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.upsampling import Upsample2D

from dreamcache.export.attention import AttentionKind
from dreamcache.export.decoder_graphs import (
    CutStrip,
    DecoderHead,
    WholeDecoder,
    can_cut,
    cut_strips,
)
from dreamcache.export.onnx_graphs import export_graph
from dreamcache.export.shared_weights import write_shared
from dreamcache.runtime.contract import GraphSpec, StripSpec
from dreamcache.runtime.strips import LEAST_ROWS, scale_of, strip_inputs, strip_outputs
from dreamcache.runtime.tensors import TensorSpec

VAE_DECODER = "vae_decoder/model.onnx"
VAE_DECODER_HEAD = "vae_decoder/head.onnx"
VAE_DECODER_STRIP = "vae_decoder/strip_{:02d}.onnx"
VAE_DECODER_WEIGHTS = "vae_decoder/weights.data"

CUT_BYTES = 1 << 25
"""A map of at most 32 MiB is small beside the weights of the layers that make it."""
WINDOW_BYTES = 1 << 24
"""A run holds a handful of maps of this size; the rows computed twice are a few in a hundred."""


@dataclass(frozen=True)
class DecoderSpecs:
    """The decoder's graphs as the contract declares them; no head and no strips where nothing is cut."""

    whole: GraphSpec
    head: GraphSpec | None
    strips: tuple[StripSpec, ...]


@torch.no_grad()
def export_decoder(
    vae: AutoencoderKL,
    folder: Path,
    latent_height: int,
    latent_width: int,
    attention: AttentionKind,
    *,
    cut_bytes: int = CUT_BYTES,
    window_bytes: int = WINDOW_BYTES,
) -> DecoderSpecs:
    """Write every graph of the decoder below `folder`.

    Raises:
        ExportError: the decoder cannot be exported.
    """
    shape = (1, int(vae.config.latent_channels), latent_height, latent_width)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    picture = (1, int(vae.config.out_channels), factor * latent_height, factor * latent_width)
    latent = TensorSpec(name="latent_sample", shape=shape, dtype="float32", meaning="unscaled latent")
    sample = TensorSpec(name="sample", shape=picture, dtype="float32", meaning="picture in -1 to 1")
    models = {VAE_DECODER: export_graph(WholeDecoder(vae, attention), (latent,), (sample,))}
    whole = _spec(VAE_DECODER, (latent,), (sample,))
    head: GraphSpec | None = None
    strips: list[StripSpec] = []
    cut = find_cut(vae, latent_height, latent_width, cut_bytes)
    if cut is not None:
        module = DecoderHead(vae, attention, cut)
        features = TensorSpec(
            name="features",
            shape=(1, module.out_channels, latent_height * 2**cut, latent_width * 2**cut),
            dtype="float32",
            meaning="the map that the strips start from",
        )
        models[VAE_DECODER_HEAD] = export_graph(module, (latent,), (features,))
        head = _spec(VAE_DECODER_HEAD, (latent,), (features,))
        for index, strip in enumerate(cut_strips(vae, cut)):
            spec = _declare(strip, VAE_DECODER_STRIP.format(index), latent_height, latent_width, window_bytes)
            models[spec.file] = export_graph(strip.module, spec.inputs, spec.outputs)
            strips.append(spec)
    place = (folder / VAE_DECODER).parent
    place.mkdir()
    write_shared(
        place, {Path(file).name: model for file, model in models.items()}, Path(VAE_DECODER_WEIGHTS).name
    )
    return DecoderSpecs(whole, head, tuple(strips))


def find_cut(vae: AutoencoderKL, latent_height: int, latent_width: int, cut_bytes: int) -> int | None:
    """The block whose upsampler is the first to make a map of more than `cut_bytes`; None: nothing to cut."""
    if not can_cut(vae):
        return None
    for i, block in enumerate(list(vae.decoder.up_blocks)[:-1]):
        upsampler = block.upsamplers[0]
        assert isinstance(upsampler, Upsample2D)
        pixels = latent_height * latent_width * 4 ** (i + 1)
        if 4 * upsampler.out_channels * pixels > cut_bytes:
            return i
    return None


def _declare(
    strip: CutStrip, file: str, latent_height: int, latent_width: int, window_bytes: int
) -> StripSpec:
    height, width, k = latent_height * strip.scale, latent_width * strip.scale, scale_of(strip.kind)
    row_bytes = 4 * max(strip.channels, strip.out_channels * k * k) * width
    rows = min(max(window_bytes // row_bytes, LEAST_ROWS), height)
    shortcut = getattr(strip.module, "shortcut", None) is not None
    return StripSpec(
        file=file,
        weights=(VAE_DECODER_WEIGHTS,),
        inputs=strip_inputs(strip.kind, strip.channels, rows, width, strip.groups, strip.out_channels),
        outputs=strip_outputs(strip.kind, strip.out_channels, rows, width, strip.module.groups, shortcut),
        kind=strip.kind,
    )


def _spec(file: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> GraphSpec:
    return GraphSpec(file=file, weights=(VAE_DECODER_WEIGHTS,), inputs=inputs, outputs=outputs)
