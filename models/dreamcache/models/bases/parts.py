"""The parts of a text-to-image model as they come off a disk, and whether they belong together."""

from __future__ import annotations

from typing import Any, NamedTuple

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizerFast

from dreamcache.models.errors import AdapterError


class Parts(NamedTuple):
    """What a base is made of; `scheduler` is the scheduler_config.json."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizerFast
    unet: UNet2DConditionModel
    scheduler: dict[str, Any]


def check_together(name: str, parts: Parts) -> None:
    """Refuse parts that do not make a text-to-image model together.

    Args:
        name: of the base, for the message.
        parts: all of them.

    Raises:
        AdapterError: an inpainting or editing UNet, a UNet made for another text encoder, or more tokens than it
            has embeddings for.
    """
    takes, latents = int(parts.unet.config.in_channels), int(parts.vae.config.latent_channels)
    if takes != latents:
        raise AdapterError(
            f"the UNet of {name} takes {takes} channels and its VAE's latents have {latents}: "
            "an inpainting or editing model; give the text-to-image base it was made from"
        )
    reads = parts.unet.config.encoder_hid_dim
    if reads is None:
        reads = parts.unet.config.cross_attention_dim
    writes = int(parts.text_encoder.config.hidden_size)
    widths = {int(width) for width in (reads if isinstance(reads, (list, tuple)) else [reads])}
    if widths != {writes}:
        raise AdapterError(
            f"the UNet of {name} reads text of width {min(widths)} and its text encoder writes {writes}; "
            "give parts of one base"
        )
    ids, embeddings = max(parts.tokenizer.get_vocab().values()) + 1, int(parts.text_encoder.config.vocab_size)
    if ids > embeddings:
        raise AdapterError(
            f"the tokenizer of {name} has {ids} tokens and its text encoder {embeddings} embeddings; save both "
            "again after resize_token_embeddings"
        )
