"""Inputs and outputs of text encoder and VAE, whatever they are exported to.

Names are those of optimum's ONNX exporter, which people know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dreamcache.models.bases.base import Base
from dreamcache.models.bases.parts.autoencoder import Autoencoder, factor_of
from dreamcache.models.bases.parts.segmenter import MEAN, STD
from dreamcache.runtime.bundle.tensors import DType, TensorSpec


@dataclass(frozen=True)
class GraphTensors:
    """What a graph takes and returns, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def declare_text_encoders(base: Base) -> dict[str, GraphTensors]:
    """Token ids to the prompt's embedding; SDXL's second encoder gives a pooled embedding too."""
    n = base.text_length
    ids = _spec("input_ids", (1, n), "token ids of a prompt, padded to the text length", "int64")
    width = int(base.text_encoder.config.hidden_size)
    if base.second is None:
        return {"text_encoder": _tensors(ids, _spec("last_hidden_state", (1, n, width), "prompt embedding"))}
    config = base.second.encoder.config
    name, meaning = "penultimate_hidden_state", "columns of the prompt embedding"
    pooled = _spec("text_embeds", (1, int(config.projection_dim)), "pooled prompt embedding")
    return {
        "text_encoder": _tensors(ids, _spec(name, (1, n, width), meaning)),
        "text_encoder_2": GraphTensors(
            (ids,), (_spec(name, (1, n, int(config.hidden_size)), meaning), pooled)
        ),
    }


def declare_vae_encoder(vae: Autoencoder, latent_height: int, latent_width: int) -> GraphTensors:
    """A picture to its latent."""
    latent, picture = _vae_shapes(vae, latent_height, latent_width)
    meaning = "unscaled latent: the mean of the encoder's distribution"
    return _tensors(
        _spec("sample", picture, "picture in -1 to 1"), _spec("latent_parameters", latent, meaning)
    )


def declare_vae_decoder(vae: Autoencoder, latent_height: int, latent_width: int) -> GraphTensors:
    """A latent to its picture."""
    latent, picture = _vae_shapes(vae, latent_height, latent_width)
    return _tensors(
        _spec("latent_sample", latent, "unscaled latent"), _spec("sample", picture, "picture in -1 to 1")
    )


def declare_segmenter(
    size: tuple[int, int], mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> GraphTensors:
    """A picture of this height and width, normalised so, to its subject's mask."""
    numbers = ", over ".join(
        ", ".join(f"{number:g}" for number in dict.fromkeys(part)) for part in (mean, std)
    )
    meaning = f"the whole picture, colours from 0 to 1, minus {numbers}"
    return _tensors(
        _spec("picture", (1, 3, *size), meaning), _spec("mask", (1, 1, *size), "the subject, 0 to 1")
    )


def _vae_shapes(
    vae: Autoencoder, latent_height: int, latent_width: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the latent and of the picture."""
    config = vae.config
    factor = factor_of(config)
    latent = (1, int(config.latent_channels), latent_height, latent_width)
    return latent, (1, int(config.out_channels), factor * latent_height, factor * latent_width)


def _tensors(taken: TensorSpec, given: TensorSpec) -> GraphTensors:
    return GraphTensors((taken,), (given,))


def _spec(name: str, shape: tuple[int, ...], meaning: str, dtype: DType = "float32") -> TensorSpec:
    return TensorSpec(name=name, shape=shape, dtype=dtype, meaning=meaning)
