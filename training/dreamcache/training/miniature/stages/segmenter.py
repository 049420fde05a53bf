"""The segmenter of the drawn world: from a picture of a toy in a scene to the toy's mask.

With it a bundle takes a picture of the toy in a scene as its reference, as a phone's camera would give it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dreamcache.models.bases.parts.segmenter import SubjectSegmenter
from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.device import autocast, training_device
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.world.dataset import draw_batch, read_shards

SMALLEST_CUT = 0.7
"""Of a picture that is cut out and enlarged, as a share of its side."""


@torch.no_grad()
def iou_on_renders(segmenter: SubjectSegmenter, size: int, samples: int = 500, seed: int = 98) -> float:
    """Mean intersection over union of masks on renders of held-out toys in scenes."""
    batch = draw_batch(seed, 0, samples, held_out=True, size=size)
    device = next(segmenter.parameters()).device
    parts = [segmenter(to_tensor(batch.targets[i : i + 50]).to(device)).cpu() for i in range(0, samples, 50)]
    found, truth = torch.cat(parts)[:, 0].numpy() > 0.5, batch.masks > 127
    return float(((found & truth).sum((1, 2)) / (found | truth).sum((1, 2))).mean())


def train_segmenter(data: Path, samples: int, directory: Path, schedule: Schedule) -> SubjectSegmenter:
    """Train on the first `samples` renders of a folder; continues where `directory` stands."""
    device = training_device()
    shards = [(batch.targets, batch.masks) for batch in read_shards(data, samples)]
    pictures, masks = (np.concatenate(part) for part in zip(*shards, strict=True))
    torch.manual_seed(schedule.seed)
    segmenter = SubjectSegmenter().to(device)
    run = Run(directory, dict(segmenter.named_parameters()), schedule)

    def loss(step: int) -> Tensor:
        generator = step_generator(schedule.seed, step)
        chosen = torch.randint(len(pictures), (schedule.batch,), generator=generator).numpy()
        x, truth = _altered(to_tensor(pictures[chosen]), torch.from_numpy(masks[chosen]), generator)
        x, truth = x.to(device), truth.to(device)
        with autocast(device):
            logits = segmenter.logits(x)
        mask = logits.float().sigmoid()
        overlap = (2 * (mask * truth).sum((1, 2, 3)) + 1) / ((mask + truth).sum((1, 2, 3)) + 1)
        return functional.binary_cross_entropy_with_logits(logits.float(), truth) + 1 - overlap.mean()

    run.train(loss)
    return segmenter.eval()


def _altered(pictures: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Half mirrored, half of the steps enlarged, all of another brightness and a little noised."""
    x, truth = pictures, masks.float()[:, None] / 255
    count, size = len(x), x.shape[-1]
    mirrored = (torch.rand(count, 1, 1, 1, generator=generator) < 0.5).expand_as(truth)
    truth = torch.where(mirrored, truth.flip(-1), truth)
    x = torch.where(mirrored.expand_as(x), x.flip(-1), x)
    if float(torch.rand((), generator=generator)) < 0.5:
        side = int(torch.randint(int(SMALLEST_CUT * size), size + 1, (), generator=generator))
        top, left = torch.randint(0, size - side + 1, (2,), generator=generator).tolist()
        x, truth = (
            functional.interpolate(
                part[..., top : top + side, left : left + side], size=size, mode="bilinear"
            )
            for part in (x, truth)
        )
    gain, offset = 0.7 + 0.6 * torch.rand(count, 1, 1, 1, generator=generator), 0.2
    x = gain * x + offset * (torch.rand(count, 1, 1, 1, generator=generator) - 0.5)
    return (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(-1, 1), truth
