"""The judge: a small network that reads a toy's attributes and outline, the scene and the style off a 64 × 64 picture.

It is trained on renders alone and never sees a generated picture, so it can be wrong about them but cannot
have learned to flatter them. Renders are slightly blurred and noised in training, as decoded pictures are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.training.dataset import Batch, Of, draw_batch, read_shards
from dreamcache.training.device import autocast, training_device
from dreamcache.training.evaluation.halves import halves
from dreamcache.training.loop import Run, Schedule, step_generator
from dreamcache.training.pixels import to_tensor
from dreamcache.training.world.samples import ATTRIBUTES

JUDGE_FILE = Path(__file__).parent / "judge.safetensors"


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions; the first halves the resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """`classes`: attribute → [n] class numbers, in the order of ATTRIBUTES; `masks`: [n, 64, 64] in 0..1."""

    classes: dict[str, NDArray[np.int64]]
    masks: NDArray[np.float32]


class Judge(nn.Module):
    """Pictures [n, 3, 64, 64] in −1..1 → logits per attribute [n, classes], of the outline [n, 1, 16, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.SiLU())
        self.fine = _stage(32, 64)
        self.outline = nn.Conv2d(64, 1, 3, padding=1)
        self.coarse = nn.Sequential(_stage(64, 128), _stage(128, 192))
        self.hidden = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(192 * 16, 256), nn.SiLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(256, len(classes)) for name, classes in ATTRIBUTES.items()}
        )

    def forward(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See the class."""
        fine = self.fine(self.stem(pictures))
        hidden = self.hidden(self.coarse(fine))
        return {name: head(hidden) for name, head in self.heads.items()}, self.outline(fine)

    @torch.no_grad()
    def judge(self, pictures: NDArray[np.uint8], batch: int = 200) -> Verdict:
        """Verdict on pictures uint8 [n, 64, 64, 3]."""
        device = next(self.parameters()).device
        classes: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        masks = []
        for start in range(0, len(pictures), batch):
            logits, outline = self(to_tensor(pictures[start : start + batch]).to(device))
            for name, values in logits.items():
                classes[name].append(values.argmax(1))
            masks.append(functional.interpolate(outline, size=(64, 64), mode="bilinear").sigmoid()[:, 0])
        joined = {name: torch.cat(parts).cpu().numpy() for name, parts in classes.items()}
        return Verdict(joined, torch.cat(masks).cpu().numpy())


def load_judge(path: Path = JUDGE_FILE) -> Judge:
    """The trained judge.

    Raises FileNotFoundError naming the command that trains it.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `dreamcache train judge` first")
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.eval()


def stated_accuracy(path: Path = JUDGE_FILE) -> dict[str, float]:
    """What `accuracy_on_renders` found when the judge of a file was trained."""
    with safe_open(path, framework="pt") as file:
        stated: dict[str, float] = json.loads(file.metadata()["accuracy_on_held_out_renders"])
    return stated


def accuracy_on_renders(judge: Judge, samples: int = 2000, seed: int = 99) -> dict[str, float]:
    """Accuracy of each attribute and mean IoU of the outline on renders of held-out identities.

    For styles there are as many pictures in a style again: the plain ones all have the same.
    """
    batch = draw_batch(seed, 0, samples, held_out=True)
    verdict = judge.judge(batch.targets)
    report = {
        name: float((found == batch.labels[:, list(ATTRIBUTES).index(name)]).mean())
        for name, found in verdict.classes.items()
    }
    styled = draw_batch(seed, 0, samples, held_out=True, of="stylised")
    truth = np.concatenate([batch.labels, styled.labels])[:, list(ATTRIBUTES).index("style")]
    seen = np.concatenate([verdict.classes["style"], judge.judge(styled.targets).classes["style"]])
    report["style"] = float((seen == truth).mean())
    outline, found = batch.masks > 127, verdict.masks > 0.5
    report["outline_iou"] = float(((outline & found).sum((1, 2)) / (outline | found).sum((1, 2))).mean())
    return report


def train_judge(data: Mapping[Of, tuple[Path, int]], directory: Path, schedule: Schedule) -> Judge:
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
    judge = Judge().to(device)
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
    for i, (x, y) in enumerate(rng.integers(-3, 4, (len(batch.targets), 2))):
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


def save_judge(judge: Judge, path: Path, accuracy: dict[str, float]) -> None:
    """Write the weights as float16, with what `accuracy_on_renders` found."""
    metadata = {"accuracy_on_held_out_renders": json.dumps(accuracy)}
    save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, path, metadata)
