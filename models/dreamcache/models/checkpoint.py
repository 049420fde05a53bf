"""Adapters on disk: one safetensors file, keyed by module path, that knows which base it belongs to.

Keys are ``<site>.<parameter>``, such as ``up_blocks.1.attentions.1.to_q.weight``; the metadata holds the
adapter config and the fingerprint of the base. Only safetensors is read: a pickle is never opened.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError

FORMAT = "dreamcache-adapters-1"
_RESERVED = ("format", "config", "base")
# Entries of a UNet's config that change nothing of what it computes in float32.
_IDLE = ("sample_size", "dropout", "upcast_attention")
# Rows of a latent that bases are published with.
_SIZES = (8, 16, 32, 64, 96, 128)


def adapter_state(conditioned: ConditionedUNet) -> dict[str, Tensor]:
    """Every adapter parameter under ``<site>.<parameter>``; the tensors are the live ones."""
    return {
        f"{site.name}.{name}": parameter
        for site in conditioned.sites
        for name, parameter in conditioned.adapter(site.name).named_parameters()
    }


def base_fingerprint(unet: UNet2DConditionModel) -> str:
    """SHA-256 over the UNet's config and weights.

    Weights count at half precision, so that a base stored in fp16 and the fp32 one it was made from are the
    same base; config entries count where they differ from the class's defaults and change what is computed.
    """
    config = _stated(unet)
    return _fingerprints(unet, [{name: value for name, value in config.items() if name not in _IDLE}])[0]


def _fingerprints_of_0_1(unet: UNet2DConditionModel) -> list[str]:
    """What version 0.1 may have called this base: there, the size of the picture counted too."""
    config = _stated(unet)
    sizes = [config.get("sample_size"), *_SIZES]
    return _fingerprints(unet, [config | {"sample_size": size} for size in sizes] + [_without_size(config)])


def _without_size(config: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in config.items() if name != "sample_size"}


def _stated(unet: UNet2DConditionModel) -> dict[str, object]:
    """Config entries that differ from the class's defaults."""
    defaults = inspect.signature(type(unet).__init__).parameters
    return {
        name: value
        for name, value in unet.config.items()
        if name in defaults and _plain(value) != _plain(defaults[name].default)
    }


def _fingerprints(unet: UNet2DConditionModel, configs: Sequence[Mapping[str, object]]) -> list[str]:
    """Of the UNet's weights with each config, reading the weights once."""
    digests = [hashlib.sha256(json.dumps(_plain(config), sort_keys=True).encode()) for config in configs]
    for name, tensor in sorted(_own_weights(unet).items()):
        described, values = f"{name}{list(tensor.shape)}".encode(), _half_bytes(tensor)
        for digest in digests:
            digest.update(described)
            digest.update(values)
    return [digest.hexdigest() for digest in digests]


def _own_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The UNet's weights by their names without PEFT's: LoRAs that lie beside them change no base."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in unet.state_dict().items()
        if ".lora_" not in name
    }


def adapters_fingerprint(conditioned: ConditionedUNet) -> str:
    """SHA-256 over the adapters' config and weights, at half precision like `base_fingerprint`."""
    digest = hashlib.sha256(conditioned.config.to_json().encode())
    for name, tensor in sorted(adapter_state(conditioned).items()):
        digest.update(f"{name}{list(tensor.shape)}".encode())
        digest.update(_half_bytes(tensor))
    return digest.hexdigest()


def save_adapters(
    path: str | os.PathLike[str],
    conditioned: ConditionedUNet,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    base: str | None = None,
) -> None:
    """Write the adapters, first under a temporary name.

    Args:
        path: the safetensors file; replaced if it exists.
        conditioned: holds adapters, config and base.
        metadata: further strings (steps, seed, commands); must not use the names this format reserves.
        dtype: stored type, such as torch.float16; None keeps the adapters' own.
        base: fingerprint of the base, where the UNet in memory is a rounded copy of it; None computes it.

    Raises:
        AdapterError: reserved metadata names, or non-finite weights.
    """
    extra = dict(metadata or {})
    taken = sorted(set(extra) & set(_RESERVED))
    if taken:
        raise AdapterError(f"metadata uses the reserved names {', '.join(taken)}; rename them")
    tensors = {
        name: tensor.detach().to(device="cpu", dtype=tensor.dtype if dtype is None else dtype).contiguous()
        for name, tensor in adapter_state(conditioned).items()
    }
    _refuse_non_finite(tensors, path)
    record = {
        "format": FORMAT,
        "config": conditioned.config.to_json(),
        "base": base_fingerprint(conditioned.unet) if base is None else base,
        **extra,
    }
    place = Path(path)
    # no longer than the file system takes, whatever the name's letters
    partial = place.with_name(f".{place.name[:60]}.partial")
    save_file(tensors, partial, metadata=record)
    partial.replace(place)


def read_adapters(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of an adapters file, unchecked against any base.

    Raises:
        AdapterError: the file is absent, no safetensors, or no adapters of this format.
    """
    if not Path(path).is_file():
        raise AdapterError(f"no adapters file at {path}; give a .safetensors file that training wrote")
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = dict(stored.metadata() or {})
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{path} is not a safetensors file ({error}); released .pt files are converted once, "
            "with: dreamcache convert"
        ) from error
    if metadata.get("format") != FORMAT:
        raise AdapterError(
            f"{path} has format {metadata.get('format')!r}, expected {FORMAT!r}; give an adapters file"
        )
    return tensors, metadata


def load_adapters(path: str | os.PathLike[str], unet: UNet2DConditionModel) -> ConditionedUNet:
    """Join the adapters of a file to the base they were trained on.

    Raises:
        AdapterError: another base, missing or extra keys, wrong shapes or non-finite values; names them.
    """
    tensors, metadata = read_adapters(path)
    if "config" not in metadata or "base" not in metadata:
        raise AdapterError(f"{path} lacks its config or its base in the metadata; save the adapters again")
    expected_base = base_fingerprint(unet)
    if metadata["base"] != expected_base and metadata["base"] not in _fingerprints_of_0_1(unet):
        raise AdapterError(
            f"{path} belongs to the base {metadata['base'][:12]}, this base is {expected_base[:12]}; "
            "give the base that the adapters were trained on"
        )
    conditioned = ConditionedUNet(unet, AdapterConfig.from_json(metadata["config"]))
    state = adapter_state(conditioned)
    _refuse_keys(path, set(state), set(tensors))
    wrong = [
        f"{name} is {list(tensors[name].shape)}, expected {list(parameter.shape)}"
        for name, parameter in state.items()
        if tensors[name].shape != parameter.shape
    ]
    if wrong:
        raise AdapterError(f"{path} has wrong shapes: {_some(wrong)}; train adapters for this base")
    _refuse_non_finite(tensors, path)
    with torch.no_grad():
        for name, parameter in state.items():
            parameter.copy_(tensors[name])
    return conditioned


def _refuse_keys(path: str | os.PathLike[str], expected: set[str], received: set[str]) -> None:
    missing, extra = sorted(expected - received), sorted(received - expected)
    if missing:
        raise AdapterError(f"{path} lacks {_some(missing)}; the file is incomplete, save the adapters again")
    if extra:
        raise AdapterError(f"{path} has keys that fit no site: {_some(extra)}; train adapters for this base")


def _refuse_non_finite(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    bad = sorted(
        name
        for name, tensor in tensors.items()
        if not tensor.dtype.is_floating_point or not bool(torch.isfinite(tensor).all())
    )
    if bad:
        raise AdapterError(f"{path} has values that are not finite numbers in {_some(bad)}; train again")


def _some(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _half_bytes(tensor: Tensor) -> memoryview:
    """The values at half precision, without a second copy of them."""
    return tensor.detach().to(device="cpu", dtype=torch.float16).contiguous().numpy().data


def _plain(value: object) -> object:
    """The value as JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(value, default=str))
