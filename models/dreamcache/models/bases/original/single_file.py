"""A base from one ``.safetensors`` checkpoint in the original layout of latent diffusion.

The keys are renamed by diffusers' own conversions (`diffusers.loaders.single_file_utils`); the configs come from
a folder or from the table of known architectures, so nothing is asked of a network but, at most, CLIP's tokenizer.
diffusers' own `from_single_file` is not used: it takes scaled weights for whole ones, overlooks what a file says of
itself and keys that nobody reads, does not know two of the layouts, and fails late where weights are absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.loaders.single_file_utils import (
    LDM_VAE_KEYS,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizerFast

from dreamcache.models.bases.architectures import ARCHITECTURES, VAE_CONFIG, text_config
from dreamcache.models.bases.original.layout import refuse_unplaced
from dreamcache.models.bases.original.lent_configs import USUAL_SCALE, configs_of_folder
from dreamcache.models.bases.original.other_tools import TEXT_ENCODER, UNET, unread
from dreamcache.models.bases.original.statements import (
    Statement,
    agreed,
    check_buffers,
    joined,
    read_statement,
    warn_of_encoder_layer,
)
from dreamcache.models.bases.original.stored import Shapes, read_layout, read_metadata, read_tensors
from dreamcache.models.bases.parts.autoencoder import Autoencoder
from dreamcache.models.bases.parts.clip_tokenizer import load_tokenizer
from dreamcache.models.bases.parts.loading import CONFIG_ERRORS, why_unreadable
from dreamcache.models.bases.parts.overrides import AS_CONFIGURED, Overrides
from dreamcache.models.bases.parts.schedule import quiet_diffusers
from dreamcache.models.bases.parts.soundness import (
    refuse_missing,
    refuse_unexpected,
    without_meaning,
)
from dreamcache.models.bases.parts.together import Parts
from dreamcache.models.errors import AdapterError

_GUIDANCE = "time_embed.cond_proj.weight"
_SILENT = Statement()
_TEXT_WIDTH = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
_SD2_TEXT_WIDTH = 1024
_OPEN_CLIP = "cond_stage_model.model."
_TOKENIZER = "openai/clip-vit-large-patch14"
_Model = TypeVar("_Model", bound=nn.Module)


def load_single_file(
    path: Path,
    config: str | Path | None = None,
    other_vae: Autoencoder | None = None,
    overrides: Overrides = AS_CONFIGURED,
) -> Parts:
    """Every part of a checkpoint, weights in float32.

    Args:
        path: the checkpoint.
        config: a diffusers folder whose configs and tokenizer it shares, or the name of a known architecture;
            None recognises the architecture by the checkpoint's keys.
        other_vae: in the place of the checkpoint's own, which is then not looked at.
        overrides: what comes before the configs, and which copy of the UNet is taken.

    Raises:
        AdapterError: no checkpoint of this layout, an unsupported or incomplete one, or an unknown config.
        OSError: a config or the tokenizer cannot be read.
    """
    placed, shapes = read_layout(path)
    refuse_unplaced(path, placed)
    if not any(name.startswith(TEXT_ENCODER) for name in shapes):
        raise AdapterError(
            f"the text encoder of {path} lacks all its weights: a UNet alone, or with a VAE; give a whole checkpoint, "
            "or a diffusers folder with this UNet in it"
        )
    metadata = read_metadata(path)
    statement = read_statement(path, placed, metadata)
    said = agreed(path, statement, overrides.prediction)
    folder = None if config is None else Path(config)
    if folder is not None and folder.is_dir():
        vae, text, unet, scheduler = configs_of_folder(folder, own_vae=other_vae is None)
    else:
        folder, name = None, recognise(path, shapes, said) if config is None else str(config)
        if name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise AdapterError(f"{name!r} is neither a folder nor a known architecture; give one of {known}")
        known_one = ARCHITECTURES[name]
        vae, text, unet = VAE_CONFIG, text_config(known_one.text), known_one.unet
        scheduler = known_one.scheduler
    scheduler = joined(path, statement, scheduler, None if config is None else str(config))
    if text.hidden_size != _SD2_TEXT_WIDTH:
        # Stable Diffusion 2 has its last layer left out by its architecture.
        warn_of_encoder_layer(path, metadata, overrides.clip_skip)
    configured = None if other_vae is not None else float(vae.get("scaling_factor", USUAL_SCALE))
    check_buffers(path, configured, {**scheduler, **overrides.schedule()})
    tensors = read_tensors(path, overrides.ema, placed)
    return Parts(
        vae=autoencoder_of(path, vae, tensors) if other_vae is None else other_vae,
        text_encoder=_text_encoder(path, text, tensors),
        tokenizer=_tokenizer(folder, pads_with_zero=text.hidden_size == _SD2_TEXT_WIDTH),
        unet=_unet(path, unet, tensors),
        scheduler=scheduler,
    )


def recognise(path: Path, shapes: Shapes, statement: Statement = _SILENT) -> str:
    """The known architecture of a checkpoint, by its keys and what it says of itself.

    Raises:
        AdapterError: it cannot be told by the keys.
    """
    width = shapes.get(_TEXT_WIDTH, [0])[-1]
    if width == 768:
        return "lcm" if f"{UNET}{_GUIDANCE}" in shapes else "sd15"
    if width == _SD2_TEXT_WIDTH and statement.prediction_type is not None:
        return "sd21" if statement.prediction_type == "v_prediction" else "sd21-base"
    if width == _SD2_TEXT_WIDTH:
        raise AdapterError(
            f"{path} is an SD 2.x checkpoint, which does not say whether it predicts noise or velocity; give "
            "--base-config sd21 (768 px, velocity), sd21-base (512 px, noise), sd-turbo or a diffusers folder, or "
            "--prediction"
        )
    raise AdapterError(
        f"the architecture of {path} is not known (text width {width}); "
        "give --base-config with a diffusers folder of the same architecture"
    )


@contextmanager
def _fitting(path: Path, part: str) -> Iterator[None]:
    """Raises: AdapterError for whatever a class or a table of names raises on a config that is not the weights'."""
    try:
        with quiet_diffusers():
            yield
    except AdapterError:
        raise
    except CONFIG_ERRORS as error:
        raise AdapterError(
            f"the {part} of {path} does not fit its config ({why_unreadable(error)}); give --base-config with a "
            "folder of the checkpoint's own architecture"
        ) from error


def _unet(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> UNet2DConditionModel:
    with _fitting(path, "unet"):
        model = UNet2DConditionModel.from_config(config)
        converted = convert_ldm_unet_checkpoint(tensors, model.config)
    if f"{UNET}{_GUIDANCE}" in tensors:
        # diffusers' table has no name for the guidance scale of a latent consistency model.
        converted["time_embedding.cond_proj.weight"] = tensors[f"{UNET}{_GUIDANCE}"]
    return filled(path, "unet", model, converted, tensors, UNET)


def autoencoder_of(path: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> AutoencoderKL:
    """The VAE of a file in the original layout, of a whole checkpoint or of a VAE alone.

    Raises:
        AdapterError: weights are missing or do not fit the config.
    """
    with _fitting(path, "vae"):
        model = AutoencoderKL.from_config(config)
        converted = convert_ldm_vae_checkpoint(tensors, model.config)
    prefix = next((known for known in LDM_VAE_KEYS if any(name.startswith(known) for name in tensors)), "")
    return filled(path, "vae", model, converted, tensors, prefix)


def _text_encoder(path: Path, config: CLIPTextConfig, tensors: dict[str, Tensor]) -> CLIPTextModel:
    with _fitting(path, "text encoder"):
        model = CLIPTextModel(config)
    if f"{_OPEN_CLIP}token_embedding.weight" in tensors:
        converted = convert_open_clip_checkpoint(model, tensors, prefix=_OPEN_CLIP)
    else:
        converted = convert_ldm_clip_checkpoint(tensors)
    return filled(path, "text encoder", model, converted, tensors, TEXT_ENCODER)


def filled(
    path: Path,
    part: str,
    model: _Model,
    converted: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    prefix: str = "",
) -> _Model:
    """The model with the converted weights.

    Args:
        path: of the file, for the message.
        part: what it is, for the message.
        model: of the config.
        converted: weights by the model's names.
        tensors: what they were converted from.
        prefix: that the part's keys begin with there.

    Raises:
        AdapterError: weights that are missing, do not fit the config, or that nothing reads.
    """
    expected = model.state_dict()
    refuse_missing(f"the {part} of {path}", set(expected) - set(converted), vae=part == "vae")
    wrong = [
        f"{name} is {list(converted[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if converted[name].shape != tensor.shape
    ]
    if wrong:
        raise AdapterError(f"the {part} of {path} does not fit its config: {wrong[0]}; give --base-config")
    layers = getattr(model.config, "num_hidden_layers", None)
    found = unread(tensors, (converted[name] for name in expected), prefix)
    refuse_unexpected(f"the {part} of {path}", [key for key in found if not without_meaning(key, layers)])
    state = {name: converted[name].to(torch.float32) for name in expected}
    model.load_state_dict(state, strict=True)
    return model


def _tokenizer(folder: Path | None, pads_with_zero: bool) -> CLIPTokenizerFast:
    """The folder's tokenizer, else CLIP's own: from the Hub's cache, or the Hub."""
    if folder is not None:
        return load_tokenizer(folder / "tokenizer")
    # Stable Diffusion 2 pads with token 0, which is "!", where 1 pads with the end.
    arguments = {"pad_token": "!"} if pads_with_zero else {}
    try:
        return CLIPTokenizerFast.from_pretrained(_TOKENIZER, local_files_only=True, **arguments)
    except OSError:
        pass
    try:
        return CLIPTokenizerFast.from_pretrained(_TOKENIZER, **arguments)
    except OSError as error:
        raise AdapterError(
            f"a checkpoint comes without a tokenizer, and {_TOKENIZER} cannot be fetched; "
            "give --base-config with a diffusers folder that has one"
        ) from error
