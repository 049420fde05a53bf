"""Stage 3: the subject's mask in each target, and the reference that is cut out with it.

The reference is the target's own subject (paper, supplement), on white and framed by the runner's own
`prepare_reference`, so that training sees references as generation will: the longer side fills 0.8 of the frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image

from dreamcache.runtime.errors import ImageError
from dreamcache.runtime.reference.prepare import MIN_FILL, prepare_reference
from dreamcache.training.data.models.segmentation import Found, Limits, Segmenter, measure_mask
from dreamcache.training.data.shards.batches import batched
from dreamcache.training.data.shards.folder import ShardFolder
from dreamcache.training.data.shards.index import StageIndex, installed_versions
from dreamcache.training.data.shards.pictures import (
    decode_json,
    decode_picture,
    encode_json,
    encode_png,
    target_member,
)
from dreamcache.training.data.shards.shards import ShardSample, tar_path
from dreamcache.training.data.stages.stage import ShardProgress
from dreamcache.training.errors import ShardError

_DIGITS = 4


@dataclass(frozen=True)
class ReferenceStage:
    """Nothing here is random: the same targets and models give the same references."""

    targets: Path
    segmenter: Segmenter
    limits: Limits = field(default_factory=Limits)
    batch: int = 8

    @cached_property
    def _source(self) -> ShardFolder:
        return ShardFolder.open(self.targets, "targets")

    @cached_property
    def index(self) -> StageIndex:
        """Raises: WeightsError without the models; ShardError when the targets are not complete."""
        models, source = self.segmenter.models, self._source
        return StageIndex(
            stage="references",
            seed=source.index.seed,
            shards=source.index.shards,
            shard_size=source.index.shard_size,
            resolution=source.index.resolution,
            settings={**self.segmenter.settings, **asdict(self.limits), "min_fill": MIN_FILL},
            models=models,
            source=source.as_record,
            made_with=installed_versions(),
        )

    def source_sha256(self, shard: int) -> str | None:
        """Of the targets."""
        return self._source.records[shard].sha256

    def expected(self, shard: int) -> int:
        """Targets of the shard."""
        return self._source.records[shard].samples

    def samples(self, shard: int, report: ShardProgress) -> Iterator[ShardSample]:
        """The target's members with reference.png and mask.png; json gains the mask's measures."""
        where = str(tar_path(self.targets, self._source.index, shard))
        for part in batched(self._source.read(shard), self.batch):
            size = self.index.resolution or 0
            pictures = [
                decode_picture(target_member(sample, where)[1], size, "RGB", f"{where}: sample {sample.key}")
                for sample in part
            ]
            about = [decode_json(sample, where) for sample in part]
            if not all(isinstance(record.get("subject"), str) for record in about):
                raise ShardError(
                    f"{where}: samples that name their subject are expected; make the captions again"
                )
            found = self.segmenter.find(pictures, [record["subject"] for record in about])
            for sample, record, picture, one in zip(part, about, pictures, found, strict=True):
                made, fault = cut_reference(picture, one, self.limits, size)
                if made is None:
                    report.rejected[fault] += 1
                    continue
                members = {**sample.members, **made.members}
                members["json"] = encode_json({**record, **made.measures})
                yield ShardSample(sample.key, members)
            report.advance(len(part))


@dataclass(frozen=True)
class CutReference:
    """Encoded reference and mask, and their measures."""

    members: dict[str, bytes]
    measures: dict[str, float | int]


def cut_reference(
    picture: Image.Image, found: Found | None, limits: Limits, size: int
) -> tuple[CutReference | None, str]:
    """The reference of a picture, size × size; or None and the reason why there is none.

    picture: "RGB". found: its mask is of the picture's size.
    """
    judged = measure_mask(found, limits)
    if judged is None or found is None:
        return None, "nothing found"
    if judged.fault is not None:
        return None, judged.fault
    mask = Image.fromarray(judged.mask)
    try:
        prepared = prepare_reference(picture, mask, size=size)
    except ImageError:  # all of the picture, or a few pixels: only where limits were given that allow it
        return None, "no usable mask"
    if prepared.fill < MIN_FILL:
        return None, "fills too little"
    measures = {
        "confidence": round(found.confidence, _DIGITS),
        "area": round(judged.area, _DIGITS),
        "border": round(judged.border, _DIGITS),
        "objects": judged.objects,
        "fill": round(prepared.fill, _DIGITS),
    }
    members = {"reference.png": encode_png(prepared.image), "mask.png": encode_png(mask)}
    return CutReference(members, measures), ""
