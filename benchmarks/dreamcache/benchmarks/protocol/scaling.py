"""What a picture costs against steps, batch, pictures per subject and resolution.

Steps and batch are run; pictures per subject follow from what was measured once a subject and once a picture, and are
marked as computed. Resolution is fixed in a bundle, so that axis joins the measurements of several bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from dreamcache.benchmarks.process.child import MeasuredProcess
from dreamcache.benchmarks.protocol.case import BenchCase
from dreamcache.benchmarks.protocol.samples import percentile
from dreamcache.benchmarks.record import Measurement, ScalingPoint, numbered

STEPS, BATCHES, PICTURES = (5, 10, 20, 50), (1, 2, 4), (1, 2, 5, 10, 100)
QUICK_STEPS, QUICK_BATCHES = (1, 2, 4), (1, 2)
_REPEATS = 2


def measure_scaling(case: BenchCase, quick: bool, tick: Callable[[], None]) -> tuple[ScalingPoint, ...]:
    """Pictures at several numbers of steps, then several in one go at the case's own steps."""
    with ExitStack() as stack:
        process = case.start(stack)
        process.ask("picture", prompt=case.prompt, steps=1)
        points = []
        for steps in QUICK_STEPS if quick else STEPS:
            points.append(_run(case, process, "steps", steps, steps=steps))
            tick()
        for images in QUICK_BATCHES if quick else BATCHES:
            points.append(_run(case, process, "batch", images, images=images))
            tick()
    return tuple(points)


def scaling_phases(quick: bool) -> int:
    """How often `measure_scaling` ticks."""
    return len((*QUICK_STEPS, *QUICK_BATCHES)) if quick else len((*STEPS, *BATCHES))


def pictures_per_subject(subject_ms: float, picture_ms: float, n: int) -> tuple[ScalingPoint, ...]:
    """Subject once, then k pictures: subject + k · picture, and that over k."""
    return tuple(
        ScalingPoint(
            axis="pictures per subject",
            value=count,
            total_ms=subject_ms + count * picture_ms,
            per_picture_ms=subject_ms / count + picture_ms,
            n=n,
            computed=True,
        )
        for count in PICTURES
    )


def scaling_points(measurements: Sequence[Measurement]) -> list[tuple[str, ScalingPoint]]:
    """Every point with its measurement's title; resolution joins in when the measurements are of two sizes at least."""
    points = [(title, point) for title, one in numbered(measurements) for point in one.scaling]
    sizes = [
        (
            title,
            ScalingPoint(
                axis="resolution",
                value=max(one.conditions.width, one.conditions.height),
                total_ms=one.metrics.e2e_ms_p50,
                per_picture_ms=one.metrics.e2e_ms_p50,
                n=one.spread["e2e"].n,
            ),
        )
        for title, one in numbered(measurements)
        if one.metrics.e2e_ms_p50 is not None and "e2e" in one.spread
    ]
    if len({point.value for _, point in sizes}) < 2:
        return points
    return points + sorted(sizes, key=lambda named: named[1].value)


def _run(
    case: BenchCase,
    process: MeasuredProcess,
    axis: str,
    value: int,
    steps: int | None = None,
    images: int = 1,
) -> ScalingPoint:
    taken: list[float] = []
    options = case.drawing.options() | {"images": images}
    if steps is not None:
        options["steps"] = steps
    for _ in range(_REPEATS):
        taken += process.ask("picture", prompt=case.prompt, **options)
    total = percentile(taken, 50)
    return ScalingPoint.model_validate(
        {"axis": axis, "value": value, "total_ms": total, "per_picture_ms": total / images, "n": len(taken)}
    )
