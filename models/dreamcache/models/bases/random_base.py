"""Bases of known architectures with random weights, for people who measure devices before they have weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from dreamcache.models.bases.architectures import (
    TEXT_LENGTH,
    VOCABULARY,
    known_architecture,
    text_config,
)
from dreamcache.models.bases.base import Base
from dreamcache.models.bases.joined.additions import JoinedFile
from dreamcache.models.bases.joined.other_vae import TAESD, load_vae, random_taesd
from dreamcache.models.bases.parts.autoencoder import Autoencoder
from dreamcache.models.bases.parts.second_text import SecondText
from dreamcache.models.bases.parts.together import Parts


def random_base(architecture: str, folder: Path, seed: int = 0, vae: str | Path | None = None) -> Base:
    """A base of a known architecture with seeded random weights.

    Args:
        architecture: a key of `ARCHITECTURES`.
        folder: an empty folder; the tokenizer is written into it.
        seed: of the weights.
        vae: ``taesd`` with random weights too, or what `load_base` takes; None is the architecture's own.

    Raises:
        ValueError: unknown architecture.
        AdapterError: the VAE cannot be used.
    """
    known = known_architecture(architecture)
    tokenizer = _byte_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(**known.unet)
        own: Autoencoder = AutoencoderKL(**known.vae)
        tokens = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        text_encoder = CLIPTextModel(text_config(known.text, **tokens))
        second = None
        if known.second_text is not None:
            encoder = CLIPTextModelWithProjection(text_config(known.second_text, **tokens))
            second = SecondText(encoder, tokenizer)
    joined: tuple[JoinedFile, ...] = ()
    if vae == TAESD:
        own = random_taesd(seed)
    elif vae is not None:
        own, record = load_vae(vae, known.vae)
        joined = (record,)
    return Base.of(Parts(own, text_encoder, tokenizer, unet, known.scheduler, second), joined=joined)


def _byte_tokenizer(folder: Path) -> CLIPTokenizerFast:
    """A CLIP tokenizer of the true size that knows bytes alone: random weights know no words."""
    folder.mkdir(parents=True)
    letters = list(bytes_to_unicode().values())
    pieces = letters + [f"{letter}</w>" for letter in letters]
    pieces += [f"<|unused{i}|>" for i in range(VOCABULARY - 2 - len(pieces))]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TEXT_LENGTH
    )
