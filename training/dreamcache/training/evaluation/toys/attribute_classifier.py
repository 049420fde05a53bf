"""A small network that reads a toy's attributes and outline, the scene and the style off a picture.

It is trained on renders alone (`miniature.stages.attribute_classifier`) and never sees a generated picture, so it can
be wrong about them but cannot have learned to flatter them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.models.bases.pixels import to_tensor
from dreamcache.training.errors import BenchmarkError
from dreamcache.training.world.render import SIZE
from dreamcache.training.world.samples import ATTRIBUTES

SMALLEST = 64
CLASSIFIER_FILE = Path(__file__).parent / "attribute_classifier.safetensors"


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions; the first halves the resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
    )  # fmt: skip


@dataclass(frozen=True)
class Attributes:
    """`classes`: attribute → [n] class numbers, in the order of ATTRIBUTES; `masks`: [n, h, w] in 0..1."""

    classes: dict[str, NDArray[np.int64]]
    masks: NDArray[np.float32]

    def are(self, attribute: str, wanted: Sequence[str]) -> NDArray[np.bool_]:
        """Of each picture [n] whether its class is the wanted one, given by name."""
        names = ATTRIBUTES[attribute]
        return np.equal(self.classes[attribute], [names.index(one) for one in wanted])


class AttributeClassifier(nn.Module):
    """Pictures [n, 3, size, size] in −1..1 → logits per attribute [n, classes], of the outline [n, 1, size/4, size/4].

    size: of the pictures in pixels, 64 times a power of two; at each another stage halves the resolution.
    """

    def __init__(self, size: int = SIZE) -> None:
        super().__init__()
        self.size = size
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.SiLU())
        self.fine = _stage(32, 64)
        self.outline = nn.Conv2d(64, 1, 3, padding=1)
        deeper = [_stage(192, 192) for _ in range((size // SMALLEST).bit_length() - 1)]
        self.coarse = nn.Sequential(_stage(64, 128), _stage(128, 192), *deeper)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(192 * 16, 256), nn.SiLU())
        self.heads = nn.ModuleDict(
            {name: nn.Linear(256, len(classes)) for name, classes in ATTRIBUTES.items()}
        )

    def forward(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """See the class."""
        fine, hidden = self._read(pictures)
        return {name: head(hidden) for name, head in self.heads.items()}, self.outline(fine)

    def _read(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features at a quarter of the size, and of the whole picture [n, 256]."""
        fine = self.fine(self.stem(pictures))
        return fine, self.hidden(self.coarse(fine))

    @torch.no_grad()
    def features(self, pictures: NDArray[np.uint8], batch: int = 200) -> NDArray[np.float32]:
        """What the attributes are read from: [n, 256] of pictures uint8 [n, size, size, 3]."""
        device = next(self.parameters()).device
        parts = [
            self._read(to_tensor(pictures[start : start + batch]).to(device))[1]
            for start in range(0, len(pictures), batch)
        ]
        return torch.cat(parts).cpu().numpy()

    def of_size(self, size: int) -> AttributeClassifier:
        """Itself. Raises: BenchmarkError where it reads pictures of another size, in pixels."""
        if self.size != size:
            raise BenchmarkError(
                f"the judge reads pictures of {self.size} × {self.size} pixels and the base draws {size} × {size}: "
                "give the judge that was trained with it (--judge RUN/judge/judge.safetensors)"
            )
        return self

    @torch.no_grad()
    def classify(self, pictures: NDArray[np.uint8], batch: int = 200) -> Attributes:
        """Attributes of pictures uint8 [n, size, size, 3]."""
        device = next(self.parameters()).device
        classes: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        masks = []
        for start in range(0, len(pictures), batch):
            logits, outline = self(to_tensor(pictures[start : start + batch]).to(device))
            for name, values in logits.items():
                classes[name].append(values.argmax(1))
            masks.append(functional.interpolate(outline, scale_factor=4, mode="bilinear").sigmoid()[:, 0])
        joined = {name: torch.cat(parts).cpu().numpy() for name, parts in classes.items()}
        return Attributes(joined, torch.cat(masks).cpu().numpy())


def load_classifier(path: Path = CLASSIFIER_FILE) -> AttributeClassifier:
    """The trained judge.

    Raises FileNotFoundError naming the command that trains it.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `dreamcache train miniature judge` first")
    weights = load_file(path)
    stages = len({name.split(".")[1] for name in weights if name.startswith("coarse.")})
    judge = AttributeClassifier(SMALLEST * 2 ** (stages - 2))
    judge.load_state_dict({name: value.float() for name, value in weights.items()})
    return judge.eval()


def stated_accuracy(path: Path = CLASSIFIER_FILE) -> dict[str, float]:
    """What `accuracy_on_renders` found when the judge of a file was trained."""
    with safe_open(path, framework="pt") as file:
        stated: dict[str, float] = json.loads(file.metadata()["accuracy_on_held_out_renders"])
    return stated
