"""A training run of a tiny network that can be started in a process of its own, to be killed there."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamcache.training.miniature.loop import Run, Schedule, step_generator

SCHEDULE = Schedule(
    steps=14, batch=8, learning_rate=1e-2, warmup=3, ema=0.9, checkpoint_every=4, muon=True, seed=5
)


def tiny_network(seed: int = 0) -> nn.Sequential:
    """Matrices and a kernel that Muon updates, and biases that AdamW does; in bfloat16 as in real training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(16 * 16, 32), nn.Linear(32, 4)
        ).bfloat16()


def tiny_loss(network: nn.Module, batch: int, seed: int) -> Callable[[int], Tensor]:
    """Of random pictures the network should tell the means: a loss that falls."""

    def loss(step: int) -> Tensor:
        pictures = torch.randn(batch, 3, 4, 4, generator=step_generator(seed, step))
        truth = torch.cat([pictures.mean((2, 3)), pictures.mean((1, 2, 3))[:, None]], 1)
        predicted: Tensor = network(pictures.bfloat16())
        return nn.functional.mse_loss(predicted.float(), truth)

    return loss


def train(
    directory: Path, stop: int = -1, channel: Connection | None = None, schedule: Schedule = SCHEDULE
) -> None:
    """Run to the end; announce each step on the channel, and wait for a word before steps `stop`, `stop + 1`."""
    torch.set_num_threads(1)
    network = tiny_network()
    run = Run(directory, dict(network.named_parameters()), schedule)
    loss = tiny_loss(network, schedule.batch, schedule.seed)

    def announced(step: int) -> Tensor:
        if channel is not None:
            channel.send(step)
            if step in (stop, stop + 1):
                channel.recv()
        return loss(step)

    run.train(announced)
