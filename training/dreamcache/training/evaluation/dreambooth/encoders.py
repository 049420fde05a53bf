"""The metrics' models: pictures and prompts to unit vectors, whose products are the scores.

DINO (Caron et al. 2021): the class token after the last layer norm of a ViT. Pictures are prepared as DINO's own
evaluation does (facebookresearch/dino, `eval_knn.py`): shorter side to 256 px, bicubic, centre 224 px, ImageNet's mean
and deviation. An author of the benchmark's metric says so in google/dreambooth issue 3, and that the Hub's image
processor (whole picture to 224 × 224, bilinear) does not reproduce the paper's values.
CLIP (Radford et al. 2021): the projected embeddings; pictures are prepared by the folder's own image processor, which
is OpenAI's: shorter side to 224 px, bicubic, centre crop, CLIP's mean and deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, ViTModel

from dreamcache.models.bases.clip_tokenizer import load_tokenizer
from dreamcache.runtime.errors import first_line
from dreamcache.training.device import training_device
from dreamcache.training.errors import MetricModelError
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights

Vectors = NDArray[np.float32]

BATCH = 32
# DINO's evaluation crops 224 px from 256; other sizes keep the ratio.
_RESIZE, _CROP = 256, 224
_IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_IMAGENET_DEVIATION = np.array((0.229, 0.224, 0.225), np.float32)


def dino_pixels(picture: Image.Image, side: int) -> NDArray[np.float32]:
    """[3, side, side]: an RGB picture prepared for a DINO model that takes `side` pixels."""
    shorter = side * _RESIZE // _CROP
    width, height = picture.size
    if width <= height:
        size = (shorter, max(shorter, height * shorter // width))
    else:
        size = (max(shorter, width * shorter // height), shorter)
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    pixels = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32) / np.float32(255)
    normal = (pixels - _IMAGENET_MEAN) / _IMAGENET_DEVIATION
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


class DinoEncoder:
    """Raises: MetricModelError when weights are missing or cannot be read."""

    def __init__(self, weights: MetricWeights) -> None:
        self._device = training_device()
        self._model = _load(ViTModel, weights, add_pooling_layer=False).to(self._device)
        self._side = int(self._model.config.image_size)

    def pictures(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Unit vectors [n, d] of RGB pictures."""

        def encode(batch: Sequence[Image.Image]) -> Tensor:
            pixels = np.stack([dino_pixels(picture, self._side) for picture in batch])
            hidden: Tensor = self._model(torch.from_numpy(pixels).to(self._device)).last_hidden_state
            return hidden[:, 0]

        return _in_batches(pictures, encode)


class ClipEncoder:
    """Raises: MetricModelError when weights are missing or cannot be read."""

    def __init__(self, weights: MetricWeights) -> None:
        self._device = training_device()
        self._model = _load(CLIPModel, weights).to(self._device)
        try:
            self._processor = CLIPImageProcessor.from_pretrained(weights.folder)
            self._tokenizer = load_tokenizer(weights.folder)
        except (OSError, ValueError) as error:
            raise MetricModelError(f"{weights.folder}: {first_line(error)}; fetch it again") from error

    def pictures(self, pictures: Sequence[Image.Image]) -> Vectors:
        """Unit vectors [n, d] of RGB pictures."""

        def encode(batch: Sequence[Image.Image]) -> Tensor:
            pixels = self._processor(images=list(batch), return_tensors="pt")["pixel_values"]
            features: Tensor = self._model.get_image_features(pixel_values=pixels.to(self._device))
            return features

        return _in_batches(pictures, encode)

    def prompts(self, prompts: Sequence[str]) -> Vectors:
        """Unit vectors [n, d]; prompts longer than the model reads are cut."""
        length = int(self._model.config.text_config.max_position_embeddings)

        def encode(batch: Sequence[str]) -> Tensor:
            tokens = self._tokenizer(
                list(batch), padding=True, truncation=True, max_length=length, return_tensors="pt"
            )
            features: Tensor = self._model.get_text_features(**tokens.to(self._device))
            return features

        return _in_batches(prompts, encode)


def _in_batches(items: Sequence[Any], encode: Callable[[Sequence[Any]], Tensor]) -> Vectors:
    with torch.no_grad():
        parts = [
            functional.normalize(encode(items[start : start + BATCH]).float(), dim=1).cpu()
            for start in range(0, len(items), BATCH)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def _load(kind: Any, weights: MetricWeights, **options: Any) -> Any:
    try:
        model, report = kind.from_pretrained(
            weights.folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **options
        )
    except Exception as error:  # loaders raise nearly anything on broken weights
        raise MetricModelError(
            f"{weights.source}: its weights cannot be read ({first_line(error)}); fetch it again"
        ) from error
    # transformers fills missing weights with random numbers; ids of positions are not weights
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("position_ids"))
    if missing:
        raise MetricModelError(
            f"{weights.source} lacks {missing[0]} and {len(missing) - 1} more of its weights; fetch it again"
            if len(missing) > 1
            else f"{weights.source} lacks {missing[0]} of its weights; fetch it again"
        )
    return model.eval()
