"""From bundles to a record: every phase of the protocol in turn, then the figures from the raw samples."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from math import prod
from pathlib import Path

import numpy as np

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.process.child import Settings
from dreamcache.benchmarks.process.sampler import MemoryPeak
from dreamcache.benchmarks.protocol import phases as protocol
from dreamcache.benchmarks.protocol.calls import unet_calls
from dreamcache.benchmarks.protocol.fidelity import check_fidelity
from dreamcache.benchmarks.protocol.phases import FULL, QUICK, Case, Counts, Drawing
from dreamcache.benchmarks.protocol.reference import draw_reference
from dreamcache.benchmarks.protocol.samples import median, p90, spread_of, sustained_speeds
from dreamcache.benchmarks.protocol.scaling import measure_scaling, pictures_per_subject, scaling_phases
from dreamcache.benchmarks.record import (
    BundleFacts,
    Conditions,
    Measurement,
    MemoryTrace,
    Metrics,
    Record,
    ScalingPoint,
    SpreadRecord,
    Sustained,
)
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, GuidanceMode, cache_tensors
from dreamcache.runtime.bundle.folder import Bundle, open_bundle

PROMPT = "a toy robot on the beach"
STEPS, QUICK_STEPS = 20, 4
_PHASES = 4
_WINDOW_S = 60.0

Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Plan:
    """What to measure. steps: of a picture; None is 20, or 4 when quick. sustained: minutes, 0 for none."""

    settings: Settings
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


def bench(bundles: Sequence[Path], against: Path | None, plan: Plan, advance: Advance) -> Record:
    """Measure bundles one after the other; with `against`, the only bundle and that one alternate.

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
        alternating = len(groups) * (counts.steps // protocol.BLOCK) + len(cases) * counts.pictures
        tick = _Ticker(advance, len(cases) * (_PHASES + rest) + alternating)
        order: list[str] = []
        measured: list[Measurement] = []
        for group in groups:
            found, blocks = _measure(group, plan, tick)
            measured += found
            order += blocks
    return Record(
        **{name: getattr(measured[0], name) for name in Measurement.model_fields},
        created=begun.isoformat(timespec="seconds"),
        quick=plan.quick,
        host=host,
        versions=library_versions(),
        others=tuple(measured[1:]),
        order=tuple(order),
    )


class _Ticker:
    def __init__(self, advance: Advance, total: int) -> None:
        self._advance, self._done, self._total = advance, 0, total

    def __call__(self) -> None:
        self._done += 1
        self._advance(self._done, self._total)


@contextmanager
def _cases(bundles: Sequence[Bundle], plan: Plan) -> Iterator[list[Case]]:
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
                Case(
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


def _measure(cases: list[Case], plan: Plan, tick: _Ticker) -> tuple[list[Measurement], list[str]]:
    for case in cases:
        protocol.make_subject(case)
        tick()
        protocol.measure_loads(case, plan.counts)
        tick()
        protocol.measure_stages(case, plan.counts)
        tick()
    order = protocol.measure_steps(cases, plan.counts, tick)
    protocol.measure_pictures(cases, plan.counts, tick)
    measurements = []
    for case in cases:
        peak, trace = protocol.measure_memory(case)
        tick()
        scaling = measure_scaling(case, plan.quick, tick) if plan.scaling else ()
        sustained = _sustained(case, plan.sustained, tick) if plan.sustained else None
        measurements.append(summarise(case, peak, trace, scaling, sustained))
    return measurements, order


def _sustained(case: Case, minutes: float, tick: _Ticker) -> Sustained:
    ticked = 0

    def advance(spent_s: float) -> None:
        nonlocal ticked
        while ticked < min(100, int(spent_s / minutes / 60 * 100)):
            ticked += 1
            tick()

    ends = protocol.measure_sustained(case, minutes, advance)
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


def summarise(
    case: Case,
    peak: MemoryPeak,
    trace: MemoryTrace | None,
    scaling: tuple[ScalingPoint, ...] = (),
    sustained: Sustained | None = None,
) -> Measurement:
    """Figures from raw samples, beside the samples themselves."""
    samples = case.samples
    metrics = figures(samples, peak, case.bundle)
    if metrics.step_ms_p90 is None:
        case.absent.setdefault("step_ms_p90", "a 90th percentile needs 64 samples")
    if scaling and metrics.e2e_ms_p50 is not None and metrics.cache_ms is not None:
        subject = metrics.cache_ms + (median(samples["vae_encode"]) or 0.0)
        scaling += pictures_per_subject(subject, metrics.e2e_ms_p50, len(samples["e2e"]))
    return Measurement(
        bundle=_facts(case),
        fidelity=check_fidelity(case.bundle.contract),
        conditions=_conditions(case),
        metrics=metrics,
        samples={name: tuple(round(value, 6) for value in taken) for name, taken in samples.items()},
        spread={name: SpreadRecord(**asdict(spread_of(taken))) for name, taken in samples.items()},
        absent=case.absent,
        memory=trace,
        sustained=sustained,
        scaling=scaling,
    )


def figures(samples: Mapping[str, Sequence[float]], peak: MemoryPeak, bundle: Bundle) -> Metrics:
    """The metrics; what was not sampled is null."""
    step, plain = median(samples.get("step", ())), median(samples.get("plain_step", ()))
    file_mb = peak.file_backed_mb
    return Metrics(
        cold_load_ms=median(samples.get("cold_load", ())),
        warm_load_ms=median(samples.get("warm_load", ())),
        first_step_ms=median(samples.get("first_step", ())),
        text_ms=median(samples.get("text", ())),
        cache_ms=median(samples.get("cache", ())),
        step_ms_p50=step,
        step_ms_p90=p90(samples.get("step", ())),
        plain_step_ms_p50=plain,
        adapter_overhead=None if step is None or plain is None else step / plain,
        vae_decode_ms=median(samples.get("vae_decode", ())),
        e2e_ms_p50=median(samples.get("e2e", ())),
        peak_private_mb=round(peak.private_mb, 3),
        peak_file_mb=None if file_mb is None else round(file_mb, 3),
        peak_rss_mb=round(peak.resident_mb, 3),
        cache_bytes=sum(
            prod(spec.shape) * np.dtype(spec.dtype).itemsize
            for spec in cache_tensors(bundle.contract.architecture)
        ),
        disk_bytes=bundle.total_bytes(),
    )


def _facts(case: Case) -> BundleFacts:
    contract = case.bundle.contract
    return BundleFacts(
        name=case.name,
        architecture=contract.architecture.name,
        weights=contract.weights,
        precision=contract.precision,
        contract_sha256=hashlib.sha256((case.bundle.folder / CONTRACT_NAME).read_bytes()).hexdigest(),
        fingerprints=contract.fingerprints.model_dump(),
        versions=contract.versions,
    )


def _conditions(case: Case) -> Conditions:
    contract = case.bundle.contract
    shape = contract.architecture
    settings = case.drawing.resolved(contract)
    whole, shallow = unet_calls(settings, shape.batch)
    return Conditions(
        profile=case.settings.profile,
        providers=case.settings.providers,
        threads=case.settings.threads,
        math=case.settings.math,
        width=shape.image_width,
        height=shape.image_height,
        batch=shape.batch,
        steps=settings.steps,
        guidance=settings.guidance.mode,
        guidance_interval=settings.guidance.interval,
        step_cache=settings.step_cache,
        unet_calls=whole,
        shallow_calls=shallow,
    )
