"""The attribute classifier that scores the miniature, trained on renders of the drawn world.

Renders are slightly blurred and noised in training, as decoded pictures are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.device import autocast, training_device
from dreamcache.training.evaluation.toys.attribute_classifier import SMALLEST, AttributeClassifier
from dreamcache.training.evaluation.toys.halves import halves
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.world.dataset import Batch, Of, draw_batch, read_shards
from dreamcache.training.world.samples import ATTRIBUTES


def accuracy_on_renders(judge: AttributeClassifier, samples: int = 2000, seed: int = 99) -> dict[str, float]:
    """Accuracy of each attribute and mean IoU of the outline on renders of held-out identities.

    For styles there are as many pictures in a style again: the plain ones all have the same.
    """
    batch = draw_batch(seed, 0, samples, held_out=True, size=judge.size)
    verdict = judge.classify(batch.targets)
    report = {
        name: float((found == batch.labels[:, list(ATTRIBUTES).index(name)]).mean())
        for name, found in verdict.classes.items()
    }
    styled = draw_batch(seed, 0, samples, held_out=True, of="stylised", size=judge.size)
    truth = np.concatenate([batch.labels, styled.labels])[:, list(ATTRIBUTES).index("style")]
    seen = np.concatenate([verdict.classes["style"], judge.classify(styled.targets).classes["style"]])
    report["style"] = float((seen == truth).mean())
    outline, found = batch.masks > 127, verdict.masks > 0.5
    report["outline_iou"] = float(((outline & found).sum((1, 2)) / (outline | found).sum((1, 2))).mean())
    return report


def train_classifier(
    data: Mapping[Of, tuple[Path, int]], directory: Path, schedule: Schedule
) -> AttributeClassifier:
    """Train on renders, folder and number of each kind, of two toys on the halves; continues where it stands."""
    device = training_device()
    shards: list[Batch] = []
    for of, (folder, samples) in data.items():
        for number, batch in enumerate(read_shards(folder, samples)):
            shards.append(_cut(batch, np.random.default_rng(number)) if of == "two" else batch)
    pictures = np.concatenate([b.targets for b in shards])
    masks = np.concatenate([b.masks for b in shards])
    labels = torch.from_numpy(np.concatenate([b.labels for b in shards]))
    torch.manual_seed(schedule.seed)
    judge = AttributeClassifier(pictures.shape[1]).to(device)
    run = Run(directory, dict(judge.named_parameters()), schedule)

    def loss(step: int) -> Tensor:
        torch.manual_seed(schedule.seed * 1_000_003 + step)  # for dropout
        generator = step_generator(schedule.seed, step)
        chosen = torch.randint(len(pictures), (schedule.batch,), generator=generator)
        x = _soften(to_tensor(pictures[chosen.numpy()]), generator).to(device)
        outline = functional.avg_pool2d(torch.from_numpy(masks[chosen.numpy()]).float()[:, None] / 255, 4).to(
            device
        )
        with autocast(device):
            logits, found = judge(x)
        truth = labels[chosen].to(device)
        total = functional.binary_cross_entropy_with_logits(found.float(), outline)
        for i, values in enumerate(logits.values()):
            total = total + functional.cross_entropy(values.float(), truth[:, i])
        return total

    run.train(loss)
    return judge.eval()


def _cut(batch: Batch, rng: np.random.Generator) -> Batch:
    """Halves as samples of their own, a few pixels off: a generated toy stands not quite where a render does."""
    targets, masks = [], []
    few = 3 * batch.targets.shape[1] // SMALLEST
    for i, (x, y) in enumerate(rng.integers(-few, few + 1, (len(batch.targets), 2))):
        shift, one = (int(x), int(y)), slice(i, i + 1)
        targets.append(halves(batch.targets[one], shift)[0])
        masks.append([halves(batch.masks[one, side], shift)[0, side] for side in range(2)])
    return Batch(
        targets=np.concatenate(targets),
        masks=np.concatenate(masks),
        references=batch.references.reshape(-1, *batch.references.shape[2:]),
        labels=batch.labels.reshape(-1, batch.labels.shape[-1]),
        captions=np.repeat(batch.captions, 2),
        prompts=np.repeat(batch.prompts, 2),
    )


def _soften(x: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the pictures a little blurred, all a little noised."""
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.rand(len(x), 1, 1, 1, generator=generator) * (
        torch.rand(len(x), 1, 1, 1, generator=generator) < 0.5
    )
    return x + share * (blurred - x) + 0.03 * torch.randn(x.shape, generator=generator)


def save_classifier(judge: AttributeClassifier, path: Path, accuracy: dict[str, float]) -> None:
    """Write the weights with what `accuracy_on_renders` found: float16 of bfloat16's precision, which packs smaller."""
    metadata = {"accuracy_on_held_out_renders": json.dumps(accuracy)}
    rounded = {name: value.bfloat16().half().contiguous() for name, value in judge.state_dict().items()}
    save_file(rounded, path, metadata)
