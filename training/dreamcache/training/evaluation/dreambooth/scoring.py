"""The second stage: every picture's scores, kept in one file a row and computed once.

Image to image (DINO, CLIP-I, and MDINO, MCLIP-I on white): the mean cosine similarity of a generated picture to all
real photographs of its subject, the reference among them. Text to image (CLIP-T): the cosine similarity of a picture to
its prompt, without the unique token. Ruiz et al. 2023, section 4.1; no factor is applied to the cosines.

    OUT/scores/<row>.json

It is written after each subject. A score is computed again only when the picture, its mask, its prompt, the real
photographs or the metric's weights are others, which their SHA-256 tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.progress import Progress
from dreamcache.runtime.reference.images import load_image
from dreamcache.runtime.reference.segmentation import has_grabcut
from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, BenchmarkSubject
from dreamcache.training.evaluation.dreambooth.encoders import ClipEncoder, DinoEncoder
from dreamcache.training.evaluation.dreambooth.generation import (
    SCHEMA,
    GenerationPlan,
    Slot,
    read_result,
    row_folder,
    slots,
    write_result,
)
from dreamcache.training.evaluation.dreambooth.masked import Masked, mask_of, whiten_background
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights
from dreamcache.training.evaluation.dreambooth.photographs import (
    Photographs,
    mean_similarity,
    photographs_sha256,
    read_photographs,
)

SCORES, GIVEN_MASKS = "scores", "masks"
PLAIN_METRICS = ("dino", "clip_i", "clip_t")
MASKED_METRICS = ("mdino", "mclip_i")
METRICS = (*PLAIN_METRICS, *MASKED_METRICS)


@dataclass(frozen=True)
class _Picture:
    """A generated picture to score. mask: given. about: what its scores depend on."""

    name: str
    path: Path
    mask: Path | None
    about: dict[str, Any]


class Scorer:
    """Scores pictures against a benchmark. Models load with the first picture that needs them.

    masked: whether MDINO and MCLIP-I are computed too.
    """

    def __init__(
        self, dino: MetricWeights, clip: MetricWeights, plan: GenerationPlan, masked: bool = True
    ) -> None:
        self._weights = {"dino": dino, "clip": clip}
        self._plan, self._masked = plan, masked
        self._encoders: tuple[DinoEncoder, ClipEncoder] | None = None
        self._photographs: dict[str, Photographs] = {}

    def score_row(self, row: str, benchmark: Benchmark, out: Path, progress: Progress) -> int:
        """Bring a row's scores up to date with its pictures; how many were computed.

        Raises:
            ImageError: a picture or a mask cannot be read.
            MetricModelError: the weights of a metric cannot be loaded.
            BenchmarkError: an earlier run's scores cannot be read.
        """
        place = scores_path(out, row)
        known = read_scores(place) if place.exists() else {}
        record: dict[str, Any] = {
            "schema": SCHEMA,
            "row": row,
            "metrics": {name: weights.as_record() for name, weights in self._weights.items()},
            "masking": {"masked": self._masked, "grabcut": has_grabcut()},
            # subjects that are left out this time keep the scores that they have
            "subjects": dict(known.get("subjects", {})),
        }
        if _depends_on(known) != _depends_on(record):
            record["subjects"] = {}
        computed, total = 0, sum(1 for _ in slots(benchmark, self._plan.images))
        done = 0
        for subject in benchmark.subjects:
            before = record["subjects"].get(subject.name, {})
            after, fresh = self._score_subject(row, subject, out, before)
            record["subjects"].pop(subject.name, None)
            if after["pictures"]:
                record["subjects"][subject.name] = after
            if fresh:
                write_result(place, record)
            computed += fresh
            done += len(subject.prompts) * self._plan.images
            progress(done, total)
        if not place.exists() or read_scores(place) != record:
            write_result(place, record)
        return computed

    def _score_subject(
        self, row: str, subject: BenchmarkSubject, out: Path, before: dict[str, Any]
    ) -> tuple[dict[str, Any], int]:
        """A subject's record, and how many of its pictures were scored anew."""
        real = photographs_sha256(subject, self._plan, self._masked)
        usable = before.get("pictures", {}) if before.get("real", {}).get("sha256") == real else {}
        folder, masks = row_folder(out, row) / subject.name, out / GIVEN_MASKS / row / subject.name
        # scores of further prompts and pictures, which are left out this time, are kept
        kept: dict[str, Any] = {name: old for name, old in usable.items() if (folder / name).exists()}
        fresh: list[_Picture] = []
        for prompt, text in enumerate(subject.prompts):
            for image in range(self._plan.images):
                name = Slot(subject, prompt, image).file_name
                path = folder / name
                if not path.exists():
                    continue
                mask = mask_of(masks, path) if self._masked else None
                about = {
                    "prompt": text,
                    "sha256": sha256_file(path),
                    "mask_sha256": None if mask is None else sha256_file(mask),
                }
                old = usable.get(name, {})
                if all(old.get(key) == value for key, value in about.items()):
                    kept[name] = old
                else:
                    kept[name] = about
                    fresh.append(_Picture(name, path, mask, about))
        if not fresh:
            return {**before, "pictures": kept}, 0
        for picture, scores in zip(fresh, self._scores(subject, fresh), strict=True):
            kept[picture.name] = picture.about | scores
        record = self._photographs_of(subject).as_record(real)
        return {"class": subject.class_name, "real": record, "pictures": kept}, len(fresh)

    def _scores(self, subject: BenchmarkSubject, fresh: Sequence[_Picture]) -> list[dict[str, Any]]:
        dino, clip = self._models()
        real = self._photographs_of(subject)
        pictures = [load_image(picture.path).rgb for picture in fresh]
        clip_vectors = clip.pictures(pictures)
        text = clip.prompts([picture.about["prompt"] for picture in fresh])
        columns = {
            "dino": mean_similarity(dino.pictures(pictures), real.dino),
            "clip_i": mean_similarity(clip_vectors, real.clip),
            "clip_t": (clip_vectors.astype(np.float64) * text).sum(1),
        }
        scores: list[dict[str, Any]] = [
            {name: float(values[i]) for name, values in columns.items()} for i in range(len(fresh))
        ]
        if self._masked:
            masked = [whiten_background(picture.path, picture.mask) for picture in fresh]
            for one, more in zip(scores, self._masked_scores(real, masked), strict=True):
                one.update(more)
        return scores

    def _masked_scores(self, real: Photographs, masked: Sequence[Masked]) -> list[dict[str, Any]]:
        """None for pictures in which no subject was found, and where no photograph shows one."""
        dino, clip = self._models()
        found = [one.picture for one in masked if one.picture is not None]
        scores: list[dict[str, Any]] = [{**dict.fromkeys(MASKED_METRICS), "mask": one.how} for one in masked]
        if found and real.masked_dino is not None and real.masked_clip is not None:
            values = zip(
                mean_similarity(dino.pictures(found), real.masked_dino),
                mean_similarity(clip.pictures(found), real.masked_clip),
                strict=True,
            )
            for one, score in zip(masked, scores, strict=True):
                if one.picture is not None:
                    mdino, mclip = next(values)
                    score.update(mdino=float(mdino), mclip_i=float(mclip))
        return scores

    def _models(self) -> tuple[DinoEncoder, ClipEncoder]:
        if self._encoders is None:
            self._encoders = DinoEncoder(self._weights["dino"]), ClipEncoder(self._weights["clip"])
        return self._encoders

    def _photographs_of(self, subject: BenchmarkSubject) -> Photographs:
        if subject.name not in self._photographs:
            encoders = self._models()
            self._photographs[subject.name] = read_photographs(subject, self._plan, self._masked, *encoders)
        return self._photographs[subject.name]


def _depends_on(record: dict[str, Any]) -> tuple[Any, ...]:
    """What all scores of a row depend on; the same weights may come from another place."""
    metrics = {name: weights["sha256"] for name, weights in record.get("metrics", {}).items()}
    return metrics, record.get("masking")


def scores_path(out: Path, row: str) -> Path:
    """Where a row's scores lie."""
    return out / SCORES / f"{row}.json"


def read_scores(path: Path) -> dict[str, Any]:
    """A row's scores. Raises: BenchmarkError when they cannot be read."""
    return read_result(path, "delete it to compute the scores again")
