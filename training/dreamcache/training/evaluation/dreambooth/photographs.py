"""A subject's real photographs as the metrics see them, and the similarities that scores are made of.

Ruiz et al. 2023, section 4.1: the mean cosine similarity over all pairs of a generated and a real picture.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime.files import sha256_file
from dreamcache.runtime.reference.images import load_image
from dreamcache.training.evaluation.dreambooth.benchmark import BenchmarkSubject
from dreamcache.training.evaluation.dreambooth.encoders import ClipEncoder, DinoEncoder, Vectors
from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan
from dreamcache.training.evaluation.dreambooth.masked import mask_of, whiten_background


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
class Photographs:
    """A subject's photographs as unit vectors [m, d].

    masked_dino, masked_clip: of those in which a subject was found, on white; None when there is none. masks: how many
    backgrounds were taken away by which way.
    """

    dino: Vectors
    clip: Vectors
    masked_dino: Vectors | None
    masked_clip: Vectors | None
    masks: dict[str, int]

    def within(self) -> dict[str, float | None]:
        """The mean similarity of different photographs, by metric."""
        groups = {
            "dino": self.dino, "clip_i": self.clip, "mdino": self.masked_dino, "mclip_i": self.masked_clip,
        }  # fmt: skip
        return {name: None if group is None else similarity_within(group) for name, group in groups.items()}

    def as_record(self, sha256: str) -> dict[str, Any]:
        """Plain JSON values, for the scores of a row."""
        return {"sha256": sha256, "pictures": len(self.dino), "masks": self.masks, **self.within()}


def read_photographs(
    subject: BenchmarkSubject, plan: GenerationPlan, masked: bool, dino: DinoEncoder, clip: ClipEncoder
) -> Photographs:
    """Encode a subject's photographs. Raises: ImageError for a picture or mask that cannot be used."""
    pictures: list[Image.Image] = [load_image(path).rgb for path in subject.pictures]
    cut = [whiten_background(path, _mask(subject, path, plan)) for path in subject.pictures] if masked else []
    white = [one.picture for one in cut if one.picture is not None]
    return Photographs(
        dino=dino.pictures(pictures),
        clip=clip.pictures(pictures),
        masked_dino=dino.pictures(white) if white else None,
        masked_clip=clip.pictures(white) if white else None,
        masks=dict(Counter(one.how for one in cut)),
    )


def photographs_sha256(subject: BenchmarkSubject, plan: GenerationPlan, masked: bool) -> str:
    """What scores depend on of a subject's photographs and their given masks."""
    parts = []
    for picture in subject.pictures:
        mask = _mask(subject, picture, plan) if masked else None
        parts += [sha256_file(picture), "" if mask is None else sha256_file(mask)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def _mask(subject: BenchmarkSubject, picture: Path, plan: GenerationPlan) -> Path | None:
    return mask_of(None if plan.masks is None else plan.masks / subject.name, picture)
