"""A small UNet from a picture to the mask of its subject: the optional `segmenter/` of a base's folder.

Ronneberger et al. 2015 (arXiv 1505.04597) with group normalisation; the sides of pictures are multiples of 8.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dreamcache.models.errors import AdapterError

FORMAT = "dreamcache-segmenter-1"
FILE = Path("segmenter", "model.safetensors")
WIDTHS = (16, 32, 64, 96)
MEAN = STD = (0.5, 0.5, 0.5)
"""Of the colours, 0 to 1, that make a picture of the network's."""


def _convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions at one resolution."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU(),
    )  # fmt: skip


class SubjectSegmenter(nn.Module):
    """Pictures [n, 3, h, w], colours normalised by MEAN and STD → the subject's mask [n, 1, h, w] in 0..1."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.widths = widths
        self.down = nn.ModuleList(_convolutions(a, b) for a, b in zip((3, *widths), widths, strict=False))
        self.up = nn.ModuleList(
            _convolutions(deep + fine, fine) for deep, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.mask = nn.Conv2d(widths[0], 1, 1)

    def logits(self, pictures: Tensor) -> Tensor:
        """What the sigmoid makes a mask of, [n, 1, h, w]."""
        kept = []
        for level, convolve in enumerate(self.down):
            pictures = convolve(functional.avg_pool2d(pictures, 2) if level else pictures)
            kept.append(pictures)
        hidden = kept.pop()
        for convolve in self.up:
            larger = functional.interpolate(hidden, scale_factor=2.0, mode="nearest")
            hidden = convolve(torch.cat([larger, kept.pop()], 1))
        found: Tensor = self.mask(hidden)
        return found

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        return self.logits(pictures).sigmoid()


@dataclass(frozen=True)
class TrainedSegmenter:
    """module: ready to run. size: side of the pictures that it was trained on, in pixels."""

    module: SubjectSegmenter
    size: int


def save_segmenter(path: Path, module: SubjectSegmenter, size: int, about: dict[str, str]) -> None:
    """Write the weights as float16, first under another name."""
    metadata = {"format": FORMAT, "widths": json.dumps(module.widths), "size": str(size), **about}
    tensors = {name: value.half().cpu().contiguous() for name, value in module.state_dict().items()}
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, partial, metadata)
    partial.replace(path)


def load_segmenter(folder: Path | None) -> TrainedSegmenter | None:
    """The segmenter of a base's folder; None where there is none.

    Raises: AdapterError for a file that cannot be read.
    """
    if folder is None or not (path := folder / FILE).is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"format {FORMAT!r} is expected, received {metadata.get('format')!r}")
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (no mapping)
        module = SubjectSegmenter(tuple(json.loads(metadata["widths"])))
        module.load_state_dict(tensors)
        return TrainedSegmenter(module.eval(), int(metadata["size"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AdapterError(
            f"{path} is no segmenter: {' '.join(str(error).split())}; train it again, or take it away"
        ) from error
