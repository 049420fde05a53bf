"""Another VAE in the place of a base's own: a folder of diffusers, a Hub id, or one ``.safetensors`` file."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

from dreamcache.models.bases.architectures import VAE_CONFIG
from dreamcache.models.bases.diffusers_folder import load_autoencoder, stored_weights
from dreamcache.models.bases.files import read_json, refuse_pickle
from dreamcache.models.bases.hub import fetch_files, is_model_id
from dreamcache.models.bases.joined.additions import JoinedFile, digest_of
from dreamcache.models.bases.original.layout import originals
from dreamcache.models.bases.original.single_file import autoencoder_of, filled
from dreamcache.models.bases.original.stored import read_shapes, read_tensors
from dreamcache.models.bases.parts.autoencoder import AUTOENCODERS, Autoencoder, factor_of
from dreamcache.models.bases.parts.schedule import quiet_diffusers
from dreamcache.models.bases.parts.soundness import check_config, refuse_non_finite
from dreamcache.models.errors import AdapterError

CONFIG = "config.json"
TAESD = "taesd"
"""Name of an AutoencoderTiny with random weights, in the class's own shape, which is TAESD's for SD 1.x and 2.x."""

# Of diffusers' layout, which alone numbers blocks and layers so; TAESD's authors leave "decoder.layers" out.
_KL_KEY, _TINY_KEY = "decoder.conv_norm_out.weight", "decoder.layers.0.weight"
_FIRST_KEYS = ("decoder.conv_in.weight", _TINY_KEY)
_HALF_KEYS = ("1.conv.0.weight", "3.conv.0.weight")


def random_taesd(seed: int = 0) -> AutoencoderTiny:
    """TAESD's architecture with seeded random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoencoderTiny()


def load_vae(source: str | Path, own: Mapping[str, Any]) -> tuple[Autoencoder, JoinedFile]:
    """A VAE that fits a base.

    Args:
        source: a folder with the VAE or with a base that has one, a Hub id of either, or a file, in the layout of
            diffusers or in the original one; a checkpoint of a whole base gives its VAE.
        own: config of the base's own VAE, which a file without a config.json beside it shares.

    Raises:
        AdapterError: another class, number of channels or factor, or weights that are incomplete or not finite.
        FileNotFoundError: nothing there.
    """
    path = _resolved(source)
    if path.is_dir():
        vae, files = load_autoencoder(path), stored_weights(path)
        _check_fit(source, int(vae.config.latent_channels), own)
    else:
        vae, files = _of_file(path, own), [path]
    if (factor := factor_of(vae.config)) != factor_of(own):
        raise AdapterError(
            f"--vae {source} makes {factor} pixels a side of a latent's cell, and the base's {factor_of(own)}; give a "
            "VAE that was made for this base"
        )
    refuse_non_finite(f"--vae {source}", {"vae": vae})
    name = str(source) if not Path(source).exists() else Path(source).resolve().name
    return vae, JoinedFile("vae", name, digest_of(files))


def vae_parameters(source: str | Path) -> int:
    """How many parameters a VAE has, by the headers of its files; a Hub id is downloaded.

    Args:
        source: as `load_vae` takes it, or ``taesd``.

    Raises:
        AdapterError, FileNotFoundError: as `load_vae` does, of files that cannot be read.
    """
    if source == TAESD:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in AutoencoderTiny().parameters())
    path = _resolved(source)
    counts = {
        name: prod(shape)
        for file in (stored_weights(path) if path.is_dir() else [path])
        for name, shape in read_shapes(file).items()
    }
    of_a_base = [count for name, count in counts.items() if name.startswith("first_stage_model.")]
    return sum(of_a_base or counts.values())


def own_config(path: Path, config: str | Path | None) -> dict[str, Any]:
    """Config of a base's own VAE, as far as it states one."""
    for folder in (path, *(() if config is None else (Path(config),))):
        if (folder / "vae" / CONFIG).is_file():
            return read_json(folder / "vae" / CONFIG)
    return VAE_CONFIG


def _resolved(source: str | Path) -> Path:
    """A folder that holds a VAE's config, or a file."""
    path = Path(source)
    if path.is_file():
        refuse_pickle(path)
        return path
    if path.is_dir():
        inner = path / "vae"
        return inner if (inner / CONFIG).is_file() else path
    if isinstance(source, str) and path.suffix != ".safetensors" and is_model_id(source):
        refuse_pickle(path)
        mend = "check the id and the connection, or give a folder"
        found = fetch_files(source, mend, allow_patterns=[CONFIG, f"vae/{CONFIG}"])
        below = "vae/" if (found / "vae" / CONFIG).is_file() else ""
        wanted = [f"{below}{CONFIG}", f"{below}diffusion_pytorch_model*.safetensors"]
        return fetch_files(source, mend, allow_patterns=wanted) / below
    raise FileNotFoundError(
        f"--vae: no VAE at {str(source)!r}; give a diffusers folder, a .safetensors file, or a Hub id (owner/name or "
        "owner/name@revision)"
    )


def _check_fit(source: str | Path, channels: int, own: Mapping[str, Any]) -> None:
    if channels != (expected := int(own.get("latent_channels", 4))):
        raise AdapterError(
            f"--vae {source}: its latents have {channels} channels, and the base's {expected}; give a VAE that was "
            "made for this base"
        )


def _of_file(path: Path, own: Mapping[str, Any]) -> Autoencoder:
    shapes = read_shapes(path)
    if any(key in shapes for key in _HALF_KEYS):
        raise AdapterError(
            f"--vae {path} is one half of TAESD in its authors' layout; give TAESD's diffusers folder or its Hub id, "
            "which hold both"
        )
    first = next((shape for key, shape in shapes.items() if key.endswith(_FIRST_KEYS)), None)
    if first is None:
        raise AdapterError(
            f"--vae {path} holds no decoder ({' or '.join(_FIRST_KEYS)}), expected an AutoencoderKL or "
            "AutoencoderTiny; give a file with a VAE"
        )
    _check_fit(path, first[1], own)
    beside = path.parent / CONFIG
    config = dict(own)
    if beside.is_file() and read_json(beside).get("_class_name") in AUTOENCODERS:
        check_config(path.parent, "vae")
        config = read_json(beside)
    tiny = _TINY_KEY in shapes
    if tiny != (config.get("_class_name") == AutoencoderTiny.__name__):
        # The base's config is the other class's.
        config = {} if tiny else VAE_CONFIG
    if not tiny and _KL_KEY not in shapes:
        placed = originals(path, shapes, vae_alone=True)
        return autoencoder_of(path, config, read_tensors(path, placed=placed))
    tensors = read_tensors(path)
    kind = AUTOENCODERS["AutoencoderTiny" if tiny else "AutoencoderKL"]
    with quiet_diffusers():
        loaded: Autoencoder = filled(path, "vae", kind.from_config(config), tensors, tensors)
    return loaded
