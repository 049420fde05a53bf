"""Weights of very large models in files while they are exported, mapped instead of held in private memory.

The operating system then keeps of them what fits, as it does with a bundle's own weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from dreamcache.models.bases.base import Base
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.sessions.allocator import release_freed

MAPPED_BYTES = 1 << 20
"""Smaller tensors stay in memory."""


def map_weights(base: Base, conditioned: ConditionedUNet, beside: Path) -> int:
    """Move all large weights of a model into files, in place; nothing but where they lie changes.

    The files have no name any more once they are mapped, so that nothing is left behind however the process ends; but
    on Windows, which removes no file that is mapped.

    Args:
        base: whose models are moved.
        conditioned: its UNet with adapters.
        beside: a folder on a disk with room for the weights.

    Returns:
        How many bytes were moved.
    """
    models: list[nn.Module] = [conditioned, base.vae, base.text_encoder]
    if base.second is not None:
        models.append(base.second.encoder)
    with TemporaryDirectory(prefix=".weights-", dir=beside, ignore_cleanup_errors=True) as folder:
        moved = _moved(models, Path(folder))
    # `reuse_freed_blocks` would keep what they took.
    release_freed()
    return moved


def _moved(models: Iterable[nn.Module], folder: Path) -> int:
    seen: set[int] = set()
    moved = 0
    for model in models:
        for parameter in model.parameters():
            if id(parameter) in seen or parameter.nbytes < MAPPED_BYTES:
                continue
            seen.add(id(parameter))
            file = folder / str(len(seen))
            mapped = torch.from_file(str(file), shared=True, size=parameter.numel(), dtype=parameter.dtype)
            mapped = mapped.view(parameter.shape)
            mapped.copy_(parameter.detach())
            parameter.data = mapped
            with suppress(OSError):  # Windows removes no file that is mapped
                file.unlink()
            moved += parameter.nbytes
    return moved
