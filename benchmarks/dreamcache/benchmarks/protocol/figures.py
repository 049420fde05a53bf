"""From raw samples to a measurement: figures, facts and conditions as the record keeps them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from dreamcache.benchmarks.process.sampler import MemoryPeak
from dreamcache.benchmarks.protocol.case import BenchCase
from dreamcache.benchmarks.protocol.fidelity import check_fidelity
from dreamcache.benchmarks.protocol.samples import median, p90, spread_of
from dreamcache.benchmarks.protocol.scaling import pictures_per_subject
from dreamcache.benchmarks.record import (
    BundleFacts,
    Measurement,
    MemoryTrace,
    Metrics,
    RunConditions,
    ScalingPoint,
    Sustained,
)
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.budgets.calls import unet_calls
from dreamcache.runtime.bundle.contract import CONTRACT_NAME, cache_tensors
from dreamcache.runtime.bundle.folder import Bundle


def to_measurement(
    case: BenchCase,
    peak: MemoryPeak,
    trace: MemoryTrace | None,
    scaling: tuple[ScalingPoint, ...] = (),
    sustained: Sustained | None = None,
) -> Measurement:
    """Figures from raw samples, together with the samples."""
    samples = case.samples
    metrics = figures(samples, peak, case.bundle)
    if metrics.step_ms_p90 is None:
        case.absent.setdefault("step_ms_p90", "a 90th percentile needs 64 samples")
    if metrics.peak_private_mb is None:
        case.absent.setdefault("peak_private_mb", "this system says only what is resident")
    if scaling and metrics.e2e_ms_p50 is not None and metrics.cache_ms is not None:
        subject = metrics.cache_ms + (median(samples["vae_encode"]) or 0.0)
        scaling += pictures_per_subject(subject, metrics.e2e_ms_p50, len(samples["e2e"]))
    return Measurement(
        bundle=_facts(case),
        fidelity=check_fidelity(case.bundle.contract),
        conditions=_conditions(case),
        metrics=metrics,
        samples={name: tuple(round(value, 6) for value in taken) for name, taken in samples.items()},
        spread={name: spread_of(taken) for name, taken in samples.items()},
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
        peak_private_mb=round(peak.private_mb, 3) if peak.is_private else None,
        peak_file_mb=None if file_mb is None else round(file_mb, 3),
        peak_rss_mb=round(peak.resident_mb, 3),
        cache_bytes=sum(
            prod(spec.shape) * np.dtype(spec.dtype).itemsize
            for spec in cache_tensors(bundle.contract.architecture)
        ),
        disk_bytes=bundle.total_bytes(),
    )


def _facts(case: BenchCase) -> BundleFacts:
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


def _conditions(case: BenchCase) -> RunConditions:
    contract = case.bundle.contract
    shape = contract.architecture
    settings = case.drawing.resolved(contract)
    whole, shallow = unet_calls(settings, shape.batch)
    chosen = case.settings
    return RunConditions(
        **runner_settings(chosen.profile, chosen.providers, chosen.math),
        threads=chosen.threads,
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
