"""Segmentation without a name: a salient-object model as ONNX, such as U²-Net (arXiv 2005.09007) or IS-Net.

The usual form of these files: one input [1, 3, h, w] of ImageNet-normalised colours, a first output [1, 1, h, w].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.errors import first_line
from dreamcache.training.data.models.segmentation import INSIDE, Found
from dreamcache.training.data.models.weights import fingerprint_files
from dreamcache.training.data.shards.index import ModelRecord
from dreamcache.training.errors import SynthesisError, WeightsError

_MEAN = np.asarray([0.485, 0.456, 0.406], np.float32)
_STD = np.asarray([0.229, 0.224, 0.225], np.float32)
_DEFAULT_SIDE = 320
_ROLE = "salient-object model"


@dataclass(frozen=True)
class SalientSegmenter:
    """Reads the input's side from the file; `_DEFAULT_SIDE`, U²-Net's, where the file leaves it open."""

    model: Path

    @cached_property
    def models(self) -> tuple[ModelRecord, ...]:
        """Raises: WeightsError without the file."""
        if not self.model.is_file():
            raise WeightsError(
                f"no {_ROLE} at {str(self.model)!r}; put one as ONNX there, such as u2net.onnx or "
                "isnet-general-use.onnx from the releases of danielgatis/rembg, or leave --salient out to segment by "
                "name"
            )
        return (ModelRecord(role=_ROLE, source=str(self.model), fingerprint=fingerprint_files(self.model)),)

    @property
    def settings(self) -> dict[str, float | str]:
        """Its choices."""
        return {"segmenter": "salient"}

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        self.models  # noqa: B018  # says what is missing before ONNX Runtime does
        try:
            session = onnxruntime.InferenceSession(str(self.model), providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
            raise WeightsError(f"{self.model}: an ONNX model is expected ({first_line(error)})") from error
        shape = session.get_inputs()[0].shape
        if len(shape) != 4 or shape[1] != 3:
            raise WeightsError(f"{self.model}: an input [1, 3, h, w] is expected, received {shape}")
        return session

    def find(self, pictures: Sequence[Image.Image], subjects: Sequence[str]) -> list[Found | None]:
        """The most salient object, whatever it is; confidence is the mean saliency inside its mask."""
        del subjects
        return [self._find(picture) for picture in pictures]

    def _find(self, picture: Image.Image) -> Found | None:
        place = self._session.get_inputs()[0]
        height, width = (side if isinstance(side, int) else _DEFAULT_SIDE for side in place.shape[2:])
        small = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        colours = (np.asarray(small, np.float32) / 255 - _MEAN) / _STD
        pixels = colours.transpose(2, 0, 1)[None].astype(np.float32)
        try:
            saliency = np.asarray(self._session.run(None, {place.name: pixels})[0], np.float32)
        except Exception as error:  # as above
            raise SynthesisError(f"{self.model} fails on a picture: {first_line(error)}") from error
        if saliency.size != saliency.shape[-1] * saliency.shape[-2]:
            raise WeightsError(
                f"{self.model}: a first output [1, 1, h, w] is expected, received {list(saliency.shape)}"
            )
        plane = as_probability(saliency.reshape(saliency.shape[-2:]))
        mask = np.asarray(
            Image.fromarray(np.round(plane * 255).astype(np.uint8)).resize(
                picture.size, Image.Resampling.BILINEAR
            )
        )
        inside = mask >= INSIDE
        return Found(mask, float(mask[inside].mean() / 255)) if inside.any() else None


def as_probability(saliency: NDArray[np.float32]) -> NDArray[np.float32]:
    """Saliency [h, w] as 0-1: as it is where it keeps to that, else as logits.

    It is not stretched to the full range, as some programs do: that makes an object of a picture without one.
    Values that are not finite count as background.
    """
    clean = np.nan_to_num(saliency, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    finite = clean[np.isfinite(clean)]
    if finite.size and finite.min() >= -1e-3 and finite.max() <= 1 + 1e-3:
        return np.clip(np.where(np.isfinite(clean), clean, 0), 0, 1).astype(np.float32)
    return (1 / (1 + np.exp(-np.clip(clean, -30, 30)))).astype(np.float32)
