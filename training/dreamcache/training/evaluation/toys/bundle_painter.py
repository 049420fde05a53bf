"""Pictures for the benchmark from an exported bundle, as its user would make them: cache once, generate often."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime import Pipeline
from dreamcache.runtime.progress import track
from dreamcache.runtime.settings import Options
from dreamcache.runtime.subject import Subject
from dreamcache.training.evaluation.toys.benchmark import Condition, ToyCase


@dataclass
class BundlePainter:
    """Paints benchmark cases with the runner; subjects are kept, so that each reference is cached once.

    options: of `Pipeline.generate`, but for the seed, which is the case's.
    """

    pipeline: Pipeline
    options: Options = field(default_factory=lambda: Options(steps=20))
    subjects: dict[bytes, Subject] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Of the pictures, in pixels."""
        return self.pipeline.contract.architecture.image_height

    @property
    def segments(self) -> bool:
        """Whether the bundle cuts subjects out of scenes."""
        return self.pipeline.contract.graphs.segmenter is not None

    def subject(self, reference: NDArray[np.uint8]) -> Subject:
        """The cache of a reference picture uint8 [size, size, 3]."""
        key = reference.tobytes()
        if key not in self.subjects:
            self.subjects[key] = self.pipeline.cache(Image.fromarray(reference))
        return self.subjects[key]

    def __call__(self, cases: list[ToyCase], condition: Condition) -> NDArray[np.uint8]:
        """See `benchmark.Painter`."""
        pictures = []
        for case in track(cases, condition):
            reference = case.reference_of(condition)
            subject = None if reference is None else self.subject(reference)
            options: Options = {**self.options, "seed": case.seed}
            picture = self.pipeline.generate(case.prompt, subject, **options)
            pictures.append(np.asarray(picture))
        return np.stack(pictures)
