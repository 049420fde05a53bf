"""What the autoencoder's pictures are compared by beside their pixels: features of a small classifier of renders.

Squared error alone is content with the average of two edges; features of a network that had to tell patterns apart
are not (Zhang et al. 2018, arXiv 1801.03924, without their learned weights). The classifier has another
architecture and another seed than the judge, so that what is judged was never fitted to its judge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.device import autocast, training_device
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.world.samples import ATTRIBUTES

WIDTHS = (24, 48, 96, 128)
READ = ("body", "accent", "pattern", "kind", "scene")
SEED = 4001
FEATURES = Schedule(
    steps=400,
    batch=16,
    learning_rate=2e-3,
    warmup=20,
    ema=0.98,
    seed=SEED,
    checkpoint_every=200,
    muon=True,
)


class Features(nn.Module):
    """Pictures [n, 3, h, w] in −1..1 → features of each stage, [n, WIDTHS[i], h / 2^(i+1), w / 2^(i+1)]."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.GELU(),
                nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.GELU(),
            )
            for inputs, outputs in zip((3, *WIDTHS), WIDTHS, strict=False)
        )  # fmt: skip
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTHS[-1], len(ATTRIBUTES[name])) for name in READ})

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for stage in self.stages:
            pictures = stage(pictures)
            found.append(pictures)
        return found

    def classify(self, pictures: Tensor) -> dict[str, Tensor]:
        """Logits of each attribute, [n, classes], from the mean and the maximum over the picture."""
        last = self(pictures)[-1]
        pooled = torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}

    def distance(self, one: Tensor, other: Tensor) -> Tensor:
        """Mean squared distance of unit feature vectors, averaged over the stages; `other` is the truth."""
        with torch.no_grad():
            truth = self(other)
        parts = [
            (functional.normalize(a.float()) - functional.normalize(b.float())).square().sum(1).mean()
            for a, b in zip(self(one), truth, strict=True)
        ]
        return torch.stack(parts).mean()


def train_features(
    pictures: NDArray[np.uint8], labels: NDArray[np.int64], directory: Path, schedule: Schedule = FEATURES
) -> Features:
    """Train on renders uint8 [n, h, w, 3] with labels [n, 6]; frozen; continues where `directory` stands."""
    device = training_device()
    torch.manual_seed(schedule.seed)
    features = Features().to(device)
    run = Run(directory, dict(features.named_parameters()), schedule)
    columns = [list(ATTRIBUTES).index(name) for name in READ]
    truth = torch.from_numpy(labels)[:, columns]

    def loss(step: int) -> Tensor:
        generator = step_generator(schedule.seed, step)
        chosen = torch.randint(len(pictures), (schedule.batch,), generator=generator)
        x = to_tensor(pictures[chosen.numpy()]).to(device)
        with autocast(device):
            logits = features.classify(x)
        wanted = truth[chosen].to(device)
        parts = [
            functional.cross_entropy(values.float(), wanted[:, i]) for i, values in enumerate(logits.values())
        ]
        return torch.stack(parts).sum()

    run.train(loss)
    return features.eval().requires_grad_(requires_grad=False)
