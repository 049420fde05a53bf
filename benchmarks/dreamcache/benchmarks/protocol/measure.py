"""From bundles to a record: every phase of the protocol in turn, then the figures from the raw samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.process.child import LoadSettings
from dreamcache.benchmarks.protocol import phases
from dreamcache.benchmarks.protocol.case import BLOCK, FULL, QUICK, BenchCase, Counts, Drawing
from dreamcache.benchmarks.protocol.fidelity import check_fidelity
from dreamcache.benchmarks.protocol.figures import to_measurement
from dreamcache.benchmarks.protocol.reference import PROMPT, draw_reference
from dreamcache.benchmarks.protocol.samples import sustained_speeds
from dreamcache.benchmarks.protocol.scaling import measure_scaling, scaling_phases
from dreamcache.benchmarks.record import Measurement, Record, Sustained
from dreamcache.runtime.bundle.contract import GuidanceMode
from dreamcache.runtime.bundle.folder import Bundle, open_bundle
from dreamcache.runtime.progress import Progress

STEPS, QUICK_STEPS = 20, 4
_PHASES = 4
_WINDOW_S = 60.0


@dataclass(frozen=True)
class BenchPlan:
    """What to measure. steps: of a picture; None is 20, or 4 when quick. sustained: minutes, 0 for none."""

    settings: LoadSettings
    steps: int | None = None
    quick: bool = False
    sustained: float = 0.0
    scaling: bool = False
    prompt: str = PROMPT
    reference: Path | None = None
    guidance_mode: GuidanceMode | None = None
    guidance_interval: tuple[float, float] | None = None
    step_cache: int | None = None

    @property
    def counts(self) -> Counts:
        """How often each thing is run."""
        return QUICK if self.quick else FULL


def bench(
    bundles: Sequence[Path],
    against: Path | None,
    plan: BenchPlan,
    advance: Progress,
    keep: Callable[[Record], None] = lambda _: None,
) -> Record:
    """Measure bundles one after the other; with `against`, the only bundle and that one alternate.

    keep: called with the record so far whenever a bundle, or the pair, is measured.
    Raises: BundleError for a bundle that is damaged or lacks its fidelity figures, before anything is measured;
    SettingsError for settings that it refuses; MeasurementError when a measured process fails.
    """
    opened = [open_bundle(path, progress=advance) for path in [*bundles, *([against] if against else [])]]
    for bundle in opened:
        check_fidelity(bundle.contract)
    host, begun = describe_host(), datetime.now(timezone.utc)
    with _cases(opened, plan) as cases:
        groups = [cases] if against else [[case] for case in cases]
        rest = plan.scaling * scaling_phases(plan.quick) + (plan.sustained > 0) * 100
        counts = plan.counts
        alternating = len(groups) * (counts.steps // BLOCK) + len(cases) * counts.pictures
        tick = _Ticker(advance, len(cases) * (_PHASES + rest) + alternating)
        order: list[str] = []
        measured: list[Measurement] = []
        for group in groups:
            found, blocks = _measure(group, plan, tick)
            measured += found
            order += blocks
            record = Record(
                **{name: getattr(measured[0], name) for name in Measurement.model_fields},
                created=begun.isoformat(timespec="seconds"),
                quick=plan.quick,
                host=host,
                versions=library_versions(),
                others=tuple(measured[1:]),
                order=tuple(order),
            )
            keep(record)
    return record


class _Ticker:
    def __init__(self, advance: Progress, total: int) -> None:
        self._advance, self._done, self._total = advance, 0, total

    def __call__(self) -> None:
        self._done += 1
        self._advance(self._done, self._total)


@contextmanager
def _cases(bundles: Sequence[Bundle], plan: BenchPlan) -> Iterator[list[BenchCase]]:
    """One case a bundle, under distinct names, with a scratch folder for reference and subjects."""
    steps = (QUICK_STEPS if plan.quick else STEPS) if plan.steps is None else plan.steps
    drawing = Drawing(steps, plan.guidance_mode, plan.guidance_interval, plan.step_cache)
    with tempfile.TemporaryDirectory() as scratch:
        reference = (
            draw_reference(Path(scratch) / "reference.png") if plan.reference is None else plan.reference
        )
        cases = []
        for index, bundle in enumerate(bundles):
            drawing.resolved(bundle.contract)
            twice = any(other.folder.name == bundle.folder.name for other in bundles if other is not bundle)
            cases.append(
                BenchCase(
                    name=f"{bundle.folder.name} {index + 1}" if twice else bundle.folder.name,
                    bundle=bundle,
                    settings=replace(plan.settings, graphs=Path(scratch) / "graphs"),
                    subject=Path(scratch) / f"{index}.subject.safetensors",
                    reference=reference,
                    prompt=plan.prompt,
                    drawing=drawing,
                )
            )
        yield cases


def _measure(cases: list[BenchCase], plan: BenchPlan, tick: _Ticker) -> tuple[list[Measurement], list[str]]:
    for case in cases:
        phases.make_subject(case)
        tick()
        phases.measure_loads(case, plan.counts)
        tick()
        phases.measure_stages(case, plan.counts)
        tick()
    order = phases.measure_steps(cases, plan.counts, tick)
    phases.measure_pictures(cases, plan.counts, tick)
    measurements = []
    for case in cases:
        peak, trace = phases.measure_memory(case)
        tick()
        scaling = measure_scaling(case, plan.quick, tick) if plan.scaling else ()
        sustained = _sustained(case, plan.sustained, tick) if plan.sustained else None
        measurements.append(to_measurement(case, peak, trace, scaling, sustained))
    return measurements, order


def _sustained(case: BenchCase, minutes: float, tick: _Ticker) -> Sustained:
    ticked = 0

    def advance(spent_s: float) -> None:
        nonlocal ticked
        while ticked < min(100, int(spent_s / minutes / 60 * 100)):
            ticked += 1
            tick()

    ends = phases.measure_sustained(case, minutes, advance)
    window = min(_WINDOW_S, ends[-1] / 2)
    first, last = sustained_speeds(ends, window)
    return Sustained(
        minutes=ends[-1] / 60,
        window_s=window,
        first_per_s=first,
        last_per_s=last,
        ratio=last / first,
        ends_s=tuple(round(end, 4) for end in ends),
    )
