"""Pictures as the autoencoder takes and gives them: bytes to -1..1 and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, h, w, 3] to float32 [n, 3, h, w] in -1..1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> NDArray[np.uint8]:
    """[n, 3, h, w], clipped to -1..1, to uint8 [n, h, w, 3]."""
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    pictures: NDArray[np.uint8] = scaled.round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return pictures
