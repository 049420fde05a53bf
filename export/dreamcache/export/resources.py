"""Whether a machine has the disk and the memory for an export, said before any work starts.

Estimates follow from parameter counts, which are read off file headers or configs without loading a weight.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from dreamcache.export.errors import ExportError
from dreamcache.models.bases.architectures import known_architecture, text_config
from dreamcache.models.bases.base import Base, resolve_base
from dreamcache.models.bases.diffusers_folder import weight_files
from dreamcache.models.bases.joined.other_vae import vae_parameters
from dreamcache.models.bases.original.stored import read_layout, read_shapes
from dreamcache.models.checkpoint import read_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.bundle.contract import Precision
from dreamcache.runtime.sessions.system_memory import free_memory

_FLOAT_BYTES = 4
# The bundle, and while it is made: rounded weights lie beside the fp32 ones they are made from.
_DISK_BYTES: dict[Precision, float] = {"fp32": 4.0, "fp16": 6.0, "int8": 5.0, "web": 6.0, "web8": 5.0}
# What exporting and comparing take beside the model, in copies of the UNet's fp32 weights; the sessions that compare
# map theirs. Measured on SD 1.5: 7.5 GB of private memory in fp32, 9.3 GB in int8.
_WORKING_COPIES: dict[Precision, float] = {"fp32": 0.7, "fp16": 1.2, "int8": 1.2, "web": 1.2, "web8": 1.2}
# Core ML in 16 bits: both functions of the UNet beside their merged package; a conversion takes 10.6 GB on SD 1.5.
_COREML_UNET_BYTES, _COREML_OTHER_BYTES, _COREML_WORKING_COPIES = 6.0, 4.0, 1.5
_LIBRARIES_BYTES = 600e6
_ACTIVATION_BYTES_PER_PIXEL = 2000.0
_GRAPH_FILES_BYTES = 20e6
_USUAL_FACTOR = 8
_SDXL_SIDE = 1024


@dataclass(frozen=True)
class ModelSize:
    """Parameters of each part of what is exported; `text_encoder` of both where there are two.

    pixels: of the picture at the base's own size, as far as that is known before it is loaded.
    """

    unet: int
    adapters: int
    text_encoder: int
    vae: int
    pixels: int = 512**2

    @property
    def total(self) -> int:
        return self.unet + self.adapters + self.text_encoder + self.vae


@dataclass(frozen=True)
class Needs:
    """What an export takes at its peak, in bytes: new disk, and private memory of the process."""

    disk: float
    memory: float


def size_of_model(base: Base, conditioned: ConditionedUNet) -> ModelSize:
    """Counted off a model in memory."""
    adapters = sum(parameter.numel() for parameter in conditioned.adapter_parameters())
    text = _count(base.text_encoder) + (0 if base.second is None else _count(base.second.encoder))
    return ModelSize(_count(base.unet), adapters, text, _count(base.vae))


def size_of_architecture(name: str, vae: str | Path | None = None) -> ModelSize:
    """Counted off the configs of a known architecture, without memory for its weights.

    Args:
        name: of the architecture.
        vae: that takes the place of its own.

    Raises:
        ValueError: unknown architecture.
    """
    known = known_architecture(name)
    with torch.device("meta"):
        conditioned = ConditionedUNet(UNet2DConditionModel(**known.unet))
        text, own = _count(CLIPTextModel(text_config(known.text))), _count(AutoencoderKL(**known.vae))
        if known.second_text is not None:
            text += _count(CLIPTextModelWithProjection(text_config(known.second_text)))
    adapters = sum(parameter.numel() for parameter in conditioned.adapter_parameters())
    side = int(known.unet["sample_size"]) * _USUAL_FACTOR
    return ModelSize(
        _count(conditioned.unet), adapters, text, own if vae is None else vae_parameters(vae), side**2
    )


def size_of_files(
    source: str | Path, adapters: Path, variant: str | None = None, vae: str | Path | None = None
) -> ModelSize:
    """Read off the headers of a base's, its adapters' and another VAE's files; a Hub id is downloaded.

    Raises:
        AdapterError: no such files, or none that can be used.
        OSError: the Hub cannot be reached.
    """
    path = resolve_base(source, variant)
    stored, _ = read_adapters(adapters)
    if path.is_dir():
        files = weight_files(path, variant, own_vae=vae is None)
        parts = {part: sum(map(_count_stored, found)) for part, found in files.items()}
    else:
        _, shapes = read_layout(path)
        prefixes = {"unet": "model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
        parts = {
            part: sum(prod(shape) for name, shape in shapes.items() if name.startswith(prefix))
            for part, prefix in prefixes.items()
        }
    trained = sum(tensor.numel() for tensor in stored.values())
    text = parts["text_encoder"] + parts.get("text_encoder_2", 0)
    pixels = _SDXL_SIDE**2 if "text_encoder_2" in parts else ModelSize.pixels
    autoencoder = parts["vae"] if vae is None else vae_parameters(vae)
    return ModelSize(parts["unet"], trained, text, autoencoder, pixels)


def estimate_needs(
    size: ModelSize, precision: Precision | None = "fp32", pixels: int = 512**2, *, coreml: bool = False
) -> Needs:
    """What an export takes.

    Memory: the model in PyTorch, the graphs while they are made and compared, activations, libraries. Weights of a very
    large model lie in files after loading (`modules.mapped_weights`).

    Args:
        size: of the model.
        precision: of the ONNX graphs; None makes none.
        pixels: of the picture.
        coreml: whether Core ML packages are made.
    """
    weights = _FLOAT_BYTES * size.total
    unet = size.unet + size.adapters
    copies, disk = 0.0, _GRAPH_FILES_BYTES
    if precision is not None:
        copies, disk = _WORKING_COPIES[precision], disk + _DISK_BYTES[precision] * size.total
    if coreml:
        copies = max(copies, _COREML_WORKING_COPIES)
        disk += _COREML_UNET_BYTES * unet + _COREML_OTHER_BYTES * (size.total - unet)
    working = copies * _FLOAT_BYTES * unet
    activations = _ACTIVATION_BYTES_PER_PIXEL * pixels
    if is_huge(size.unet):
        # The model is loaded and then mapped, before anything is made of it.
        return Needs(disk + weights, max(weights, working + activations) + _LIBRARIES_BYTES)
    return Needs(
        disk=disk,
        memory=weights + working + activations + _LIBRARIES_BYTES,
    )


def check_resources(
    size: ModelSize,
    out: Path,
    precision: Precision | None = "fp32",
    pixels: int = 512**2,
    *,
    coreml: bool = False,
    loaded: bool = False,
) -> Needs:
    """Refuse an export that the machine has no room for.

    Args:
        size: of the model.
        out: where the bundle goes; its parent exists.
        precision: of the ONNX graphs; None makes none.
        pixels: of the picture.
        coreml: whether Core ML packages are made.
        loaded: the model is in memory already, so that it needs no more of it.

    Returns:
        The estimate.

    Raises:
        ExportError: too little free disk or memory; says what is needed and what there is.
    """
    needs = estimate_needs(size, precision, pixels, coreml=coreml)
    disk = shutil.disk_usage(out.absolute().parent).free
    if disk < needs.disk:
        raise ExportError(
            f"the export needs {_gigabytes(needs.disk)} of disk and {out.absolute().parent} has "
            f"{_gigabytes(disk)} free; make room or give another --out"
        )
    memory, wanted = free_memory(), needs.memory - (_FLOAT_BYTES * size.total if loaded else 0)
    if memory is not None and memory < wanted:
        raise ExportError(
            f"the export needs {_gigabytes(wanted)} of memory and {_gigabytes(memory)} are free; "
            "close other programs, or export on a larger machine"
        )
    return needs


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _count_stored(path: Path) -> int:
    return sum(prod(shape) for shape in read_shapes(path).values())


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


LARGE_PARAMETERS = 200_000_000
"""From this size on, one prediction takes seconds on two cores, and checks make do with fewer."""


def is_large(base: Base) -> bool:
    """Whether checks must make do with fewer predictions."""
    return int(base.unet.num_parameters()) >= LARGE_PARAMETERS


HUGE_PARAMETERS = 1_500_000_000
"""From this size on, all weights are mapped while graphs are made: SDXL's UNet has 2.6 billion, SD 2's 0.9."""


def is_huge(unet_parameters: int) -> bool:
    """Whether an export maps the model's weights (`modules.mapped_weights`), by the parameters of its UNet."""
    return unet_parameters >= HUGE_PARAMETERS
