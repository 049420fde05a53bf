"""The benchmark: held-out toys × scenes, each pictured with its reference, without, and with a wrong toy's.

Prompts name kind and scene alone, so everything else about the toy can come only from the reference. That is a render
on white, or a picture of the toy in another scene (`from_scene`), out of which a segmenter cuts it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dreamcache.training.evaluation.toys.attribute_classifier import AttributeClassifier
from dreamcache.training.evaluation.toys.picture_quality import measure_quality, render_toys
from dreamcache.training.evaluation.toys.scores import Scores, score
from dreamcache.training.world.captions import plain_caption
from dreamcache.training.world.identity import Identity, draw_identity
from dreamcache.training.world.render import SIZE, render, render_reference
from dreamcache.training.world.samples import PLACES

Condition = Literal["dreamcache", "from_scene", "text_only", "wrong_cache"]
ON_WHITE: tuple[Condition, ...] = ("text_only", "dreamcache", "wrong_cache")
CONDITIONS: tuple[Condition, ...] = (*ON_WHITE, "from_scene")
PHOTOGRAPH_STREAM = 5_000_011


@dataclass(frozen=True)
class ToyCase:
    """One picture to make: `reference` and `wrong_reference` uint8 [size, size, 3], `mask` [size, size] in 0..1."""

    toy: Identity
    scene: str
    prompt: str
    seed: int
    reference: NDArray[np.uint8]
    mask: NDArray[np.float32]
    wrong_toy: Identity
    wrong_reference: NDArray[np.uint8]

    def reference_of(self, condition: Condition) -> NDArray[np.uint8] | None:
        """What is cached under a condition, uint8 [size, size, 3]; None is nothing."""
        if condition == "from_scene":
            return self.photograph
        return {"text_only": None, "dreamcache": self.reference, "wrong_cache": self.wrong_reference}[
            condition
        ]

    @property
    def photograph(self) -> NDArray[np.uint8]:
        """The toy in a scene that the prompt does not name, in a pose of its own; the same every time."""
        rng = np.random.default_rng([PHOTOGRAPH_STREAM, self.seed])
        home = str(rng.choice([place for place in PLACES if place != self.scene]))
        return render(self.toy, home, rng, size=len(self.reference)).image


# cases and condition → pictures uint8 [n, size, size, 3]
Painter = Callable[[list[ToyCase], Condition], NDArray[np.uint8]]


def draw_cases(identities: int, scenes: int, seed: int = 2024, size: int = SIZE) -> list[ToyCase]:
    """Cases of held-out toys; the wrong toy is of the same kind and differs in every scored attribute.

    Raises ValueError where there are fewer scenes in the world than asked for.
    """
    if not 0 < scenes <= len(PLACES):
        raise ValueError(f"scenes is {scenes}, expected 1 to {len(PLACES)}")
    cases: list[ToyCase] = []
    known: set[str] = set()
    for number in range(identities):
        rng = np.random.default_rng([seed, number])
        toy = draw_identity(rng, held_out=True)
        while toy.key in known:
            toy = draw_identity(rng, held_out=True)
        known.add(toy.key)
        wrong = draw_identity(rng, held_out=True)
        while wrong.kind != toy.kind or any(
            getattr(wrong, name) == getattr(toy, name) for name in ("body", "accent", "pattern")
        ):
            wrong = draw_identity(rng, held_out=True)
        reference, other = (render_reference(one, rng, size) for one in (toy, wrong))
        for scene in rng.choice(PLACES, scenes, replace=False):
            cases.append(
                ToyCase(
                    toy=toy,
                    scene=str(scene),
                    prompt=plain_caption(toy, str(scene)),
                    seed=len(cases),
                    reference=reference.image,
                    mask=reference.mask.astype(np.float32) / np.float32(255),
                    wrong_toy=wrong,
                    wrong_reference=other.image,
                )
            )
    return cases


def run_benchmark(
    cases: list[ToyCase],
    paint: Painter,
    judge: AttributeClassifier,
    conditions: Sequence[Condition] = ON_WHITE,
) -> dict[Condition, Scores]:
    """Paint every case under every condition asked for, score it against the right toy and compare it with renders."""
    references = np.stack([case.reference for case in cases])
    masks = np.stack([case.mask for case in cases])
    toys, scenes = [case.toy for case in cases], [case.scene for case in cases]
    renders = render_toys(toys, scenes, judge.size)
    results = {}
    for condition in conditions:
        pictures = paint(cases, condition)
        scores = score(judge, pictures, toys, scenes, references, masks)
        results[condition] = replace(scores, quality=measure_quality(judge, pictures, renders))
    return results


def as_record(results: dict[Condition, Scores]) -> dict[str, Any]:
    """The results as plain JSON values."""
    return {condition: asdict(scores) for condition, scores in results.items()}
