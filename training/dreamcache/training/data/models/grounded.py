"""Segmentation by name: Grounding DINO (arXiv 2303.05499) finds boxes, SAM (arXiv 2304.02643) cuts out the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, SamModel, SamProcessor

from dreamcache.runtime.errors import first_line
from dreamcache.training.data.models.device import choose_device
from dreamcache.training.data.models.segmentation import Found
from dreamcache.training.data.models.weights import DETECTOR, SEGMENTER, ModelKind, describe_model, find_model
from dreamcache.training.data.shards.index import ModelRecord
from dreamcache.training.errors import WeightsError

# Boxes that share more than this of the smaller one show the same object, or a part of it.
_SAME_OBJECT = 0.5
# Another object counts when its score comes this near to the best one's.
_RIVAL = 0.6


@dataclass(frozen=True)
class GroundedSegmenter:
    """`box_threshold`: below this score nothing counts as found, 0-1. Everything in float32."""

    detector: str = DETECTOR.default
    sam: str = SEGMENTER.default
    box_threshold: float = 0.3
    device: str = "auto"

    @cached_property
    def models(self) -> tuple[ModelRecord, ...]:
        """Raises: WeightsError without one of the two."""
        return tuple(
            describe_model(kind, source, find_model(kind, source))
            for kind, source in ((DETECTOR, self.detector), (SEGMENTER, self.sam))
        )

    @property
    def settings(self) -> dict[str, float | str]:
        """Its choices."""
        return {"segmenter": "grounded", "box_threshold": self.box_threshold}

    @cached_property
    def _detector(self) -> tuple[Any, Any]:
        return _load(DETECTOR, self.detector, AutoProcessor, AutoModelForZeroShotObjectDetection, self.device)

    @cached_property
    def _sam(self) -> tuple[Any, Any]:
        return _load(SEGMENTER, self.sam, SamProcessor, SamModel, self.device)

    def find(self, pictures: Sequence[Image.Image], subjects: Sequence[str]) -> list[Found | None]:
        """Confidence is the smaller of the box's score and the mask's quality as SAM predicts it."""
        boxes = self._detect(pictures, subjects)
        hits = [i for i, (found, _) in enumerate(boxes) if len(found)]
        masks = self._cut_out([pictures[i] for i in hits], [boxes[i][0][0] for i in hits]) if hits else []
        result: list[Found | None] = [None] * len(pictures)
        for i, (mask, quality) in zip(hits, masks, strict=True):
            found, scores = boxes[i]
            confidence = min(float(scores[0]), quality)
            result[i] = Found(mask, confidence, count_objects(found, scores))
        return result

    @torch.no_grad()
    def _detect(
        self, pictures: Sequence[Image.Image], subjects: Sequence[str]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Per picture boxes [n, 4] (left, top, right, bottom in pixels) and scores [n], best first."""
        processor, model = self._detector
        # The form that Grounding DINO was trained on: lower case, each phrase ended by a full stop.
        texts = [subject.lower().replace(".", " ").strip() + "." for subject in subjects]
        inputs = processor(images=list(pictures), text=texts, padding=True, return_tensors="pt").to(
            model.device
        )
        sizes = [(picture.height, picture.width) for picture in pictures]
        found = processor.post_process_grounded_object_detection(
            model(**inputs), inputs.input_ids, threshold=self.box_threshold, target_sizes=sizes
        )
        results = []
        for one in found:
            order = one["scores"].argsort(descending=True)
            boxes = one["boxes"][order].float().cpu().numpy()
            results.append((boxes, one["scores"][order].float().cpu().numpy()))
        return results

    @torch.no_grad()
    def _cut_out(
        self, pictures: list[Image.Image], boxes: list[NDArray[np.float32]]
    ) -> list[tuple[NDArray[np.uint8], float]]:
        """Per picture the mask [h, w] of what its box shows, and its predicted quality 0-1."""
        processor, model = self._sam
        inputs = processor(
            images=pictures, input_boxes=[[box.tolist()] for box in boxes], return_tensors="pt"
        )
        sizes, reshaped = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        pixels = inputs["pixel_values"].to(model.device)
        prompts = inputs["input_boxes"].to(model.device, torch.float32)
        outputs = model(pixel_values=pixels, input_boxes=prompts, multimask_output=False)
        masks = processor.image_processor.post_process_masks(outputs.pred_masks.cpu(), sizes, reshaped)
        qualities = outputs.iou_scores.float().clamp(0, 1).cpu().numpy().reshape(len(pictures))
        return [
            (np.where(mask.numpy().reshape(mask.shape[-2:]), 255, 0).astype(np.uint8), float(quality))
            for mask, quality in zip(masks, qualities, strict=True)
        ]


def count_objects(boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> int:
    """How many different objects boxes [n, 4] with scores [n] (best first) show."""
    different: list[NDArray[np.float32]] = []
    for box, score in zip(boxes, scores, strict=True):
        if score < _RIVAL * scores[0]:
            break
        if all(_overlap(box, other) <= _SAME_OBJECT for other in different):
            different.append(box)
    return len(different)


def _overlap(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Shared area over the smaller box's area."""
    corner, far = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.clip(far - corner, 0, None)))
    smaller = min(float(np.prod(box[2:] - box[:2])) for box in (one, other))
    return shared / smaller if smaller > 0 else 0.0


def _load(kind: ModelKind, source: str, processor: Any, model: Any, device: str) -> tuple[Any, Any]:
    """Processor and model of a folder, in evaluation mode.

    Raises: WeightsError when they cannot be read.
    """
    folder: Path = find_model(kind, source)
    try:
        loaded = model.from_pretrained(folder, use_safetensors=True)
        return processor.from_pretrained(folder), loaded.eval().to(choose_device(device))
    except Exception as error:  # configs and weights fail in their own ways
        raise WeightsError(
            f"{source}: a {kind.role} such as {kind.default} is expected, received one that cannot be read "
            f"({first_line(error)}); {kind.how_to_fetch}"
        ) from error
