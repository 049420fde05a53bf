"""Configs of a diffusers folder that a checkpoint is read by (``--base-config``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from dreamcache.models.bases.diffusers_folder import read_scheduler
from dreamcache.models.bases.files import read_json
from dreamcache.models.bases.parts.loading import check_numbers
from dreamcache.models.bases.parts.soundness import check_config
from dreamcache.models.errors import AdapterError

USUAL_SCALE = 0.18215
"""Scale of latents where a VAE's config does not say it."""


def configs_of_folder(
    folder: Path, own_vae: bool
) -> tuple[dict[str, Any], CLIPTextConfig, dict[str, Any], dict[str, Any]]:
    """Of VAE (nothing, unless it is wanted), text encoder, UNet and scheduler.

    Raises:
        AdapterError: of another class than a checkpoint's, packed by a quantiser, or an entry of another type.
        OSError: a config is absent.
    """
    kinds = {"text_encoder": CLIPTextModel, "unet": UNet2DConditionModel}
    for part, kind in (kinds | ({"vae": AutoencoderKL} if own_vae else {})).items():
        check_config(folder / part, part)
        check_numbers(kind, folder / part)
    vae = read_json(folder / "vae" / "config.json") if own_vae else {}
    stated = vae.get("_class_name", AutoencoderKL.__name__)
    if stated != AutoencoderKL.__name__ or vae.get("scaling_factor", USUAL_SCALE) is None:
        raise AdapterError(
            f"{folder / 'vae' / 'config.json'} is of a {stated} with scaling_factor "
            f"{vae.get('scaling_factor', USUAL_SCALE)}, expected an AutoencoderKL and a number, as checkpoints have "
            "them; give another --base-config, or --vae"
        )
    text = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    return vae, text, read_json(folder / "unet" / "config.json"), read_scheduler(folder)
