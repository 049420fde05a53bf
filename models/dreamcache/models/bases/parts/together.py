"""The parts of a text-to-image model as they come off a disk, and whether they belong together."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizerFast

from dreamcache.models.bases.parts.autoencoder import Autoencoder, check_tiny, factor_of, latent_shift
from dreamcache.models.bases.parts.second_text import SecondText, time_ids
from dreamcache.models.errors import AdapterError

_NO_LENGTH = 10**6
_COLOURS = 3
_USUAL_PIXELS, _USUAL_SDXL_PIXELS = 512, 1024


class Parts(NamedTuple):
    """What a base is made of; `scheduler` is the scheduler_config.json, `second` SDXL's alone."""

    vae: Autoencoder
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizerFast
    unet: UNet2DConditionModel
    scheduler: dict[str, Any]
    second: SecondText | None = None


def check_together(name: str, parts: Parts) -> None:
    """Refuse parts that do not make a text-to-image model together.

    Args:
        name: of the base, for the message.
        parts: all of them.

    Raises:
        AdapterError: an inpainting or editing UNet, a UNet made for another text encoder, or more tokens than it
            has embeddings for, a VAE that shifts latents or has no coloured pictures, padding that the text encoder
            does not read or masks.
    """
    takes, latents = int(parts.unet.config.in_channels), int(parts.vae.config.latent_channels)
    if takes != latents:
        raise AdapterError(
            f"the UNet of {name} takes {takes} channels and its VAE's latents have {latents}: "
            "an inpainting or editing model; give the text-to-image base it was made from"
        )
    _check_channels(name, parts)
    reads = parts.unet.config.encoder_hid_dim
    if reads is None:
        reads = parts.unet.config.cross_attention_dim
    writes = int(parts.text_encoder.config.hidden_size)
    if parts.second is not None:
        writes += int(parts.second.encoder.config.hidden_size)
    _check_added_conditions(name, parts)
    widths = {int(width) for width in (reads if isinstance(reads, (list, tuple)) else [reads])}
    if widths != {writes}:
        raise AdapterError(
            f"the UNet of {name} reads text of width {min(widths)} and its text encoder writes {writes}; "
            "give parts of one base"
        )
    check_tiny(name, parts.vae)
    if latent_shift(parts.vae):
        raise AdapterError(
            f"the VAE of {name} shifts its latents (shift_factor {parts.vae.config.shift_factor}), as SD3's and Flux's "
            "do; give a VAE of Stable Diffusion 1.x or 2.x"
        )
    if parts.vae.config.get("latents_mean") is not None:
        raise AdapterError(
            f"the VAE of {name} scales latents by channel (latents_mean), and a bundle has one scale; give another base"
        )
    _check_text(name, "", parts.tokenizer, parts.text_encoder)
    if parts.second is not None:
        _check_text(name, "second ", parts.second.tokenizer, parts.second.encoder)
        lengths = [
            encoder.config.max_position_embeddings for encoder in (parts.text_encoder, parts.second.encoder)
        ]
        if lengths[0] != lengths[1]:
            raise AdapterError(
                f"the text encoders of {name} read {lengths[0]} and {lengths[1]} tokens, expected as many; give parts "
                "of one base"
            )


def _check_channels(name: str, parts: Parts) -> None:
    """Raises: AdapterError for a UNet that predicts more than noise, or a VAE of other pictures than coloured ones."""
    takes, gives = (int(parts.unet.config[entry]) for entry in ("in_channels", "out_channels"))
    if gives != takes:
        raise AdapterError(
            f"the UNet of {name} predicts {gives} channels and takes {takes}: one that learned a variance, or of "
            "another task; give a text-to-image base"
        )
    for entry in ("in_channels", "out_channels"):
        if (channels := int(parts.vae.config[entry])) != _COLOURS:
            raise AdapterError(
                f"the VAE of {name} has pictures of {channels} channels ({entry}), expected {_COLOURS}; give another "
                "VAE"
            )


def _check_added_conditions(name: str, parts: Parts) -> None:
    """Raises: AdapterError where the UNet and the text side do not agree on SDXL's added conditions."""
    config = parts.unet.config
    kind = config.addition_embed_type
    if (kind == "text_time") != (parts.second is not None):
        wants = (
            f"wants added conditions (addition_embed_type {kind!r})" if kind else "wants no added conditions"
        )
        has = "no" if parts.second is None else "a"
        raise AdapterError(
            f"the UNet of {name} {wants} and the base has {has} second text encoder, as SDXL's parts go together; give "
            "a whole base"
        )
    if parts.second is None:
        return
    for entry in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
        if config[entry] is None:
            raise AdapterError(
                f"the UNet of {name} reads text and sizes (addition_embed_type text_time) and its {entry} is null, "
                "expected a whole number; correct unet/config.json"
            )
    given = int(parts.second.encoder.config.projection_dim)
    given += len(time_ids(0, 0)) * int(config.addition_time_embed_dim)
    if (reads := int(config.projection_class_embeddings_input_dim)) != given:
        raise AdapterError(
            f"the UNet of {name} reads added conditions of width {reads}, and pooled text with six sizes makes "
            f"{given}: an SDXL refiner, or parts of several bases; give an SDXL base"
        )


def _check_text(name: str, which: str, tokenizer: CLIPTokenizerFast, encoder: Any) -> None:
    """Raises: AdapterError for padding that a text encoder does not read or masks, or tokens without an embedding."""
    if getattr(encoder.config, "use_attention_mask", False):
        raise AdapterError(
            f"the {which}text encoder of {name} masks padding (use_attention_mask), and a bundle's does not; give "
            "another base"
        )
    pads = int(tokenizer.model_max_length)
    reads_tokens = int(encoder.config.max_position_embeddings)
    if pads != reads_tokens:
        # transformers writes a huge number where a tokenizer states no length; diffusers then runs out of memory.
        stated = f"pads prompts to {pads} tokens" if pads < _NO_LENGTH else "states no length of prompts"
        raise AdapterError(
            f"the {which}tokenizer of {name} {stated} (model_max_length) and its text encoder reads {reads_tokens}; "
            "set both alike"
        )
    ids, embeddings = max(tokenizer.get_vocab().values()) + 1, int(encoder.config.vocab_size)
    if ids > embeddings:
        raise AdapterError(
            f"the {which}tokenizer of {name} has {ids} tokens and its text encoder {embeddings} embeddings; save both "
            "again after resize_token_embeddings"
        )


def settle_sample_size(name: str, parts: Parts) -> None:
    """Make the UNet's ``sample_size`` one number, in place: rows of the base's own square latent.

    As diffusers' pipelines do, a size below 64 in a config older than 0.9 becomes 64, but for SDXL. Without a size the
    VAE's own picture counts, else 512 px, 1024 of SDXL.

    Raises:
        AdapterError: no size that a square picture can have.
    """
    config = parts.unet.config
    size: Any = config.sample_size
    if isinstance(size, (list, tuple)):
        if len(size) != 2 or size[0] != size[1]:
            raise AdapterError(
                f"the UNet of {name} has sample_size {list(size)}, expected one number or two equal ones: correct "
                "unet/config.json, and give --resolution WIDTHxHEIGHT for pictures that are not square"
            )
        size = size[0]
    elif size is None:
        pixels = parts.vae.config.get("sample_size")
        # The VAE's class says 32 where its config is silent.
        stated = isinstance(pixels, int) and "sample_size" not in parts.vae.config.get(
            "_use_default_values", ()
        )
        usual = _USUAL_PIXELS if parts.second is None else _USUAL_SDXL_PIXELS
        size = (pixels if stated else usual) // factor_of(parts.vae.config)
    elif (
        parts.second is None
        and _before_0_9(config.get("_diffusers_version"))
        and isinstance(size, int)
        and size < 64
    ):
        size = 64
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise AdapterError(
            f"the UNet of {name} has sample_size {size!r}, expected a positive whole number; correct unet/config.json"
        )
    parts.unet.register_to_config(sample_size=size)


def _before_0_9(version: object) -> bool:
    """Whether a config was written by a diffusers before 0.9; one without a version is not."""
    numbers = re.match(r"(\d+)\.(\d+)", str(version))
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < (0, 9)
