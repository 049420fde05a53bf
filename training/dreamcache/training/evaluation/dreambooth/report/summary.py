"""From single scores to means: per row, per subject, per prompt, and against the first row.

The mean of a row is the mean of its subjects' means, with a bootstrap interval over subjects: pictures of one subject
are not independent. A row's difference to the first one is taken picture by picture (same subject, prompt and seed),
so its interval is much narrower than the rows' own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark
from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan, slots
from dreamcache.training.evaluation.dreambooth.scoring import METRICS
from dreamcache.training.evaluation.intervals import Interval, cluster_bootstrap

# subject, prompt and file name → scores
Key = tuple[str, str, str]


@dataclass(frozen=True)
class RowSummary:
    """What is known of a row.

    made_from: its record. means, differences: of each metric, None where no picture has it; differences are to the
    first row. counts: how many pictures of how many subjects have a score of the metric. subjects, prompts: means of
    each metric. pictures, wanted: counts. masks: how backgrounds were taken away from the generated pictures, and of
    how many.
    """

    name: str
    made_from: dict[str, Any]
    means: dict[str, Interval | None]
    differences: dict[str, Interval | None]
    counts: dict[str, tuple[int, int]]
    subjects: dict[str, dict[str, float | None]]
    prompts: dict[str, dict[str, float | None]]
    pictures: int
    wanted: int
    masks: dict[str, int]

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = dict(vars(self))
        for name in ("means", "differences"):
            values[name] = {
                metric: None if interval is None else vars(interval)
                for metric, interval in values[name].items()
            }
        return values


def summarise_row(
    name: str,
    made_from: dict[str, Any],
    scores: dict[str, Any],
    first: dict[str, Any] | None,
    benchmark: Benchmark,
    plan: GenerationPlan,
) -> RowSummary:
    """Sum a row up.

    Args:
        name: of the row.
        made_from: the row's record.
        scores: as `scoring` wrote them.
        first: the first row's scores; None for that row itself.
        benchmark: pictures of other subjects and prompts than its own are left out.
        plan: how many pictures each prompt has.
    """
    ours = dict(_pictures(scores, benchmark, plan))
    theirs = {} if first is None else dict(_pictures(first, benchmark, plan))
    paired = {
        key: {metric: _minus(score.get(metric), theirs[key].get(metric)) for metric in METRICS}
        for key, score in ours.items()
        if key in theirs
    }
    return RowSummary(
        name=name,
        made_from=made_from,
        means={metric: _interval(ours, metric) for metric in METRICS},
        differences={metric: _interval(paired, metric) for metric in METRICS},
        counts={metric: _count(ours, metric) for metric in METRICS},
        subjects=_grouped(ours, 0),
        prompts=_grouped(ours, 1),
        pictures=len(ours),
        wanted=sum(1 for _ in slots(benchmark, plan.images)),
        masks=dict(Counter(score["mask"] for score in ours.values() if "mask" in score)),
    )


@dataclass(frozen=True)
class RealSummary:
    """Real photographs against the others of their subject: what a perfect picture would score.

    masks: how their backgrounds were taken away, and from how many.
    """

    means: dict[str, Interval | None]
    pictures: int
    masks: dict[str, int]

    def as_record(self) -> dict[str, Any]:
        """Plain JSON values."""
        means = {name: None if one is None else vars(one) for name, one in self.means.items()}
        return {"means": means, "pictures": self.pictures, "masks": self.masks}


def summarise_real(scores: dict[str, Any], benchmark: Benchmark) -> RealSummary:
    """Sum the photographs up, from any row's scores."""
    names = {subject.name for subject in benchmark.subjects}
    real = {name: record["real"] for name, record in scores["subjects"].items() if name in names}
    masks: Counter[str] = Counter()
    for record in real.values():
        masks.update(record["masks"])
    values = {(name, "", ""): record for name, record in real.items()}
    return RealSummary(
        means={metric: _interval(values, metric) for metric in METRICS},
        pictures=sum(record["pictures"] for record in real.values()),
        masks=dict(masks),
    )


def _pictures(
    scores: dict[str, Any], benchmark: Benchmark, plan: GenerationPlan
) -> Iterator[tuple[Key, dict[str, Any]]]:
    for slot in slots(benchmark, plan.images):
        known = scores["subjects"].get(slot.subject.name, {}).get("pictures", {}).get(slot.file_name)
        if known is not None and known["prompt"] == slot.subject.prompts[slot.prompt]:
            prompt = _without_class(known["prompt"], slot.subject.class_name)
            yield (slot.subject.name, prompt, slot.file_name), known


def _without_class(prompt: str, class_name: str) -> str:
    """What prompts of different subjects share: "a dog in the snow" gives "a … in the snow"."""
    return f" {prompt} ".replace(f" {class_name} ", " … ", 1).strip()


def _interval(scores: dict[Key, dict[str, Any]], metric: str) -> Interval | None:
    known = [(key[0], value) for key, score in scores.items() if (value := score.get(metric)) is not None]
    if not known:
        return None
    return cluster_bootstrap([value for _, value in known], [subject for subject, _ in known])


def _count(scores: dict[Key, dict[str, Any]], metric: str) -> tuple[int, int]:
    subjects = [key[0] for key, score in scores.items() if score.get(metric) is not None]
    return len(subjects), len({*subjects})


def _grouped(scores: dict[Key, dict[str, Any]], part: int) -> dict[str, dict[str, float | None]]:
    """Means of each metric by one part of the key; of a prompt, every subject weighs the same."""
    groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: {metric: [] for metric in METRICS})
    for key, score in scores.items():
        for metric in METRICS:
            if (value := score.get(metric)) is not None:
                groups[key[part]][metric].append(value)
    return {
        name: {metric: float(np.mean(values)) if values else None for metric, values in group.items()}
        for name, group in groups.items()
    }


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs
