"""The second stage: every picture's scores, kept in one file a row and computed once.

Image to image (DINO, CLIP-I, and MDINO, MCLIP-I on white): the mean cosine similarity of a generated picture to all
real photographs of its subject, the reference among them. Text to image (CLIP-T): the cosine similarity of a picture to
its prompt, without the unique token. Ruiz et al. 2023, section 4.1; no factor is applied to the cosines.

    OUT/scores/<row>.json

It is written after each subject. A score is computed again only when the picture, its mask, its prompt, the real
photographs or the metric's weights are others, which their SHA-256 tell.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.images import load_image
from dreamcache.runtime.segmentation import has_grabcut
from dreamcache.training.dreambooth.benchmark import Benchmark, Subject
from dreamcache.training.dreambooth.encoders import ClipEncoder, DinoEncoder, Vectors
from dreamcache.training.dreambooth.generation import (
    SCHEMA,
    Plan,
    Progress,
    read_json,
    row_folder,
    slots,
    write_json,
)
from dreamcache.training.dreambooth.masked import Masked, mask_of, on_white
from dreamcache.training.dreambooth.metric_weights import MetricWeights

SCORES, GIVEN_MASKS = "scores", "masks"
PLAIN_METRICS = ("dino", "clip_i", "clip_t")
MASKED_METRICS = ("mdino", "mclip_i")
METRICS = (*PLAIN_METRICS, *MASKED_METRICS)


def mean_similarity(pictures: Vectors, real: Vectors) -> NDArray[np.float64]:
    """[n]: the mean cosine similarity of each of [n, d] to all of [m, d]; unit vectors, m at least 1."""
    return np.asarray((pictures.astype(np.float64) @ real.astype(np.float64).T).mean(1))


def similarity_within(real: Vectors) -> float | None:
    """The mean cosine similarity of two different ones of [m, d]; None for fewer than two."""
    if len(real) < 2:
        return None
    products = real.astype(np.float64) @ real.astype(np.float64).T
    return float(products[~np.eye(len(real), dtype=bool)].mean())


@dataclass(frozen=True)
class _Real:
    """A subject's photographs as vectors [m, d]; the masked ones are of those in which a subject was found."""

    dino: Vectors
    clip: Vectors
    masked_dino: Vectors | None
    masked_clip: Vectors | None
    masks: dict[str, int]


class Scorer:
    """Scores pictures against a benchmark. Models load with the first picture that needs them.

    masked: whether MDINO and MCLIP-I are computed too.
    """

    def __init__(self, dino: MetricWeights, clip: MetricWeights, plan: Plan, masked: bool = True) -> None:
        self._weights = {"dino": dino, "clip": clip}
        self._plan, self._masked = plan, masked
        self._encoders: tuple[DinoEncoder, ClipEncoder] | None = None
        self._real: dict[str, _Real] = {}

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
        if any(known.get(name) != record[name] for name in ("metrics", "masking")):
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
                write_json(place, record)
            computed += fresh
            done += len(subject.prompts) * self._plan.images
            progress(done, total)
        if not place.exists() or read_scores(place) != record:
            write_json(place, record)
        return computed

    def _score_subject(
        self, row: str, subject: Subject, out: Path, before: dict[str, Any]
    ) -> tuple[dict[str, Any], int]:
        """A subject's record, and how many of its pictures were scored anew."""
        real_hash = self._real_hash(subject)
        usable = before.get("pictures", {}) if before.get("real", {}).get("sha256") == real_hash else {}
        folder, masks = row_folder(out, row) / subject.name, out / GIVEN_MASKS / row / subject.name
        # scores of further prompts and pictures, which are left out this time, are kept
        kept: dict[str, Any] = {name: old for name, old in usable.items() if (folder / name).exists()}
        fresh: list[tuple[str, Path, Path | None, dict[str, Any]]] = []
        for prompt, text in enumerate(subject.prompts):
            for image in range(self._plan.images):
                name = f"{prompt:02d}-{image}.png"
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
                    fresh.append((name, path, mask, about))
        if not fresh:
            return {**before, "pictures": kept}, 0
        for (name, _, _, about), scores in zip(fresh, self._scores(subject, fresh), strict=True):
            kept[name] = about | scores
        return {
            "class": subject.class_name,
            "real": self._real_record(subject, real_hash),
            "pictures": kept,
        }, (len(fresh))

    def _scores(
        self, subject: Subject, fresh: Sequence[tuple[str, Path, Path | None, dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        dino, clip = self._models()
        real = self._real_of(subject)
        pictures = [load_image(path).rgb for _, path, _, _ in fresh]
        clip_vectors = clip.pictures(pictures)
        text = clip.prompts([about["prompt"] for *_, about in fresh])
        columns = {
            "dino": mean_similarity(dino.pictures(pictures), real.dino),
            "clip_i": mean_similarity(clip_vectors, real.clip),
            "clip_t": (clip_vectors.astype(np.float64) * text).sum(1),
        }
        scores: list[dict[str, Any]] = [
            {name: float(values[i]) for name, values in columns.items()} for i in range(len(fresh))
        ]
        if self._masked:
            masked = [on_white(path, mask) for _, path, mask, _ in fresh]
            for one, more in zip(scores, self._masked_scores(real, masked), strict=True):
                one.update(more)
        return scores

    def _masked_scores(self, real: _Real, masked: Sequence[Masked]) -> list[dict[str, Any]]:
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

    def _real_of(self, subject: Subject) -> _Real:
        if subject.name not in self._real:
            dino, clip = self._models()
            pictures: list[Image.Image] = [load_image(path).rgb for path in subject.pictures]
            white: list[Image.Image] = []
            ways: Counter[str] = Counter()
            if self._masked:
                cut = [on_white(path, self._real_mask(subject, path)) for path in subject.pictures]
                white = [one.picture for one in cut if one.picture is not None]
                ways.update(one.how for one in cut)
            self._real[subject.name] = _Real(
                dino=dino.pictures(pictures),
                clip=clip.pictures(pictures),
                masked_dino=dino.pictures(white) if white else None,
                masked_clip=clip.pictures(white) if white else None,
                masks=dict(ways),
            )
        return self._real[subject.name]

    def _real_record(self, subject: Subject, real_hash: str) -> dict[str, Any]:
        real = self._real_of(subject)
        groups = {
            "dino": real.dino, "clip_i": real.clip, "mdino": real.masked_dino, "mclip_i": real.masked_clip,
        }  # fmt: skip
        within = {name: None if group is None else similarity_within(group) for name, group in groups.items()}
        return {"sha256": real_hash, "pictures": len(subject.pictures), "masks": real.masks, **within}

    def _real_mask(self, subject: Subject, picture: Path) -> Path | None:
        return mask_of(None if self._plan.masks is None else self._plan.masks / subject.name, picture)

    def _real_hash(self, subject: Subject) -> str:
        parts = []
        for picture in subject.pictures:
            mask = self._real_mask(subject, picture) if self._masked else None
            parts += [sha256_file(picture), "" if mask is None else sha256_file(mask)]
        return hashlib.sha256("/".join(parts).encode()).hexdigest()


def scores_path(out: Path, row: str) -> Path:
    """Where a row's scores lie."""
    return out / SCORES / f"{row}.json"


def read_scores(path: Path) -> dict[str, Any]:
    """A row's scores. Raises: BenchmarkError when they cannot be read."""
    return read_json(path, "delete it to compute the scores again")
