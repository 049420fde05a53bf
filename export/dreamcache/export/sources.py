"""Where an export's model comes from: a base with trained adapters, or a known architecture at random."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError

from dreamcache.export.bundle import Source
from dreamcache.export.errors import ExportError
from dreamcache.models.architectures import ARCHITECTURES
from dreamcache.models.base import MINI_ADAPTERS, Base, load_base
from dreamcache.models.checkpoint import load_adapters, read_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.errors import AdapterError
from dreamcache.models.random_base import random_base


def trained_source(base: str, adapters: Path | None) -> Source:
    """A base and its adapters; ``mini`` brings its own.

    Raises:
        ExportError: the base or the adapters cannot be loaded, or do not belong together.
    """
    if adapters is None:
        if base != "mini":
            raise ExportError(f"--adapters: an adapters file trained on {base} is expected, received none")
        adapters = MINI_ADAPTERS
    try:
        loaded = load_base(base)
        conditioned = load_adapters(adapters, loaded.unet).eval()
        return Source(_name(base), loaded, conditioned, "trained", read_adapters(adapters)[1])
    except (AdapterError, OSError, SafetensorError) as error:
        raise ExportError(" ".join(str(error).split())) from error


def random_source(architecture: str, folder: Path) -> Source:
    """A known architecture with random weights and adapters.

    Args:
        architecture: see `dreamcache.models.architectures`.
        folder: an empty folder for the tokenizer; may go once the export is done.

    Raises:
        ExportError: unknown architecture.
    """
    if architecture not in ARCHITECTURES:
        raise ExportError(
            f"--architecture: one of {', '.join(ARCHITECTURES)} is expected, received {architecture}"
        )
    base = random_base(architecture, folder)
    return Source(architecture, base, random_adapters(base), "random")


def random_adapters(base: Base, seed: int = 0) -> ConditionedUNet:
    """Adapters whose fusion is off its start, where it would change nothing and no gate could judge it."""
    conditioned = ConditionedUNet(base.unet).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in conditioned.adapter_parameters():
            if parameter.ndim == 2:
                step = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * step / parameter.shape[1] ** 0.5)
    return conditioned


def _name(base: str) -> str:
    return base if base == "mini" else Path(base).name
