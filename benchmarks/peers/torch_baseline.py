"""What `peers.bars` compares with: SD 1.5 in PyTorch's bf16, and the arithmetic's own rate on this CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Call = Callable[[], float]
"""Runs once; seconds."""

STEP_GFLOP = 851
"""Of SD 1.5's UNet with adapters at 512 px, one call (multiplications and additions)."""
SIDE = 4096


class TorchBaseline:
    """SD 1.5's UNet and decoder in bf16, eager, by diffusers; random weights, standard normal inputs."""

    def __init__(self, threads: int | None) -> None:
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel

        from dreamcache.models.bases.architectures import VAE_CONFIG, known_architecture

        torch.set_grad_enabled(False)
        if threads is not None:
            torch.set_num_threads(threads)
        self.threads = torch.get_num_threads()
        self._unet = UNet2DConditionModel(**known_architecture("sd15").unet).bfloat16().eval()
        self._vae = AutoencoderKL(**VAE_CONFIG).bfloat16().eval()
        side, width = self._unet.config.sample_size, self._unet.config.cross_attention_dim
        self._latent = torch.randn(1, 4, side, side).bfloat16()
        self._inputs = self._latent, torch.tensor([500]), torch.randn(1, 77, width).bfloat16()
        self._square = torch.randn(SIDE, SIDE).bfloat16()

    def step(self) -> float:
        return seconds(lambda: self._unet(*self._inputs))

    def decode(self) -> float:
        return seconds(lambda: self._vae.decode(self._latent))

    def limit(self) -> float:
        """Seconds that the UNet's arithmetic takes at the rate of one product."""
        return STEP_GFLOP * 1e9 * seconds(lambda: self._square @ self._square) / (2 * SIDE**3)


def averaged(call: Call, count: int = 4) -> Call:
    """The mean of several runs, after one that is not counted."""
    return lambda: statistics.mean([call() for _ in range(count + 1)][1:])


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
