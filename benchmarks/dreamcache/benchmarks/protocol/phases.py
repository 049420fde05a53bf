"""The protocol of benchmarks/README.md, phase by phase. Each phase runs in fresh processes.

A phase takes one or more cases and returns raw milliseconds by case; with two cases (A against B) their blocks
alternate inside the phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from dreamcache.benchmarks.process.child import MeasuredProcess
from dreamcache.benchmarks.process.page_cache import drop_from_page_cache
from dreamcache.benchmarks.process.sampler import MemoryPeak, MemorySampler
from dreamcache.benchmarks.protocol.case import BLOCK, BenchCase, Counts
from dreamcache.benchmarks.protocol.samples import alternate, is_warm
from dreamcache.benchmarks.record import MemoryTrace, Span

TRACE_POINTS = 600


def make_subject(case: BenchCase) -> None:
    """Cache the reference once, and let the memory profile keep its optimised denoiser; not timed."""
    with MeasuredProcess() as process:
        process.load(case.bundle.folder, case.settings, "denoiser")
        process.ask("cache", reference=str(case.reference), out=str(case.subject))


def measure_loads(case: BenchCase, counts: Counts) -> None:
    """cold_load, warm_load: bundle and denoiser session; first_step: the call after a warm load."""
    for _ in range(counts.cold_loads):
        reason = drop_from_page_cache(case.files())
        if reason is not None:
            case.absent["cold_load_ms"] = reason
            break
        with MeasuredProcess() as process:
            case.keep("cold_load", [process.load(case.bundle.folder, case.settings, "denoiser")])
    for _ in range(counts.warm_loads):
        with MeasuredProcess() as process:
            case.keep("warm_load", [process.load(case.bundle.folder, case.settings, "denoiser")])
            process.ask("use_subject", path=str(case.subject))
            case.keep("first_step", process.ask("call", graph="denoiser", count=1))


def measure_stages(case: BenchCase, counts: Counts) -> None:
    """text, vae_encode, cache, vae_decode: the graphs' own time, after one call that is not kept."""
    with ExitStack() as stack:
        process = case.start(stack)
        for index in range(counts.stages + 1):
            taken = process.ask("cache", reference=str(case.reference))
            taken |= {
                "text": process.ask("text", prompt=case.prompt),
                "vae_decode": process.ask("vae_decode"),
            }
            if index:
                for name, values in taken.items():
                    case.keep(name, values)


def measure_steps(cases: Sequence[BenchCase], counts: Counts, tick: Callable[[], None]) -> list[str]:
    """step, plain_step, shallow_step: single UNet calls, in blocks that alternate between graphs and cases.

    The shallow graph is measured where step caching was asked for. Returns the order of the blocks, as "case graph".
    """
    order: list[str] = []
    with ExitStack() as stack:
        tracks: list[Track] = []
        for case in cases:
            process = case.start(stack, "denoiser")
            tracks.append(Track(case, process, "denoiser", "step"))
            graphs = case.bundle.contract.graphs.by_name()
            if case.drawing.resolved(case.bundle.contract).step_cache > 1:
                tracks.append(Track(case, process, "shallow", "shallow_step"))
            if "plain" in graphs:
                tracks.append(Track(case, process, "plain", "plain_step"))
            else:
                why = "the bundle holds no plain graph to compare with"
                case.absent |= {"plain_step_ms_p50": why, "adapter_overhead": why}
        for track in warm_up(tracks, counts.warm_blocks):
            track.case.absent[f"{track.sample} warm-up"] = (
                f"three blocks never agreed within 5 % in {counts.warm_blocks}"
            )
        for track in alternate(tracks, counts.steps // BLOCK):
            track.case.keep(track.sample, track.run())
            order.append(f"{track.case.name} {track.graph}")
            if len(order) % len(tracks) == 0:
                tick()
    return order


@dataclass(frozen=True)
class Track:
    """One graph of one case in its process; `sample` is the name its times are kept under."""

    case: BenchCase
    process: MeasuredProcess
    graph: str
    sample: str

    def run(self) -> list[float]:
        """One block of calls."""
        taken: list[float] = self.process.ask("call", graph=self.graph, count=BLOCK)
        return taken


def warm_up(tracks: Sequence[Track], most: int) -> list[Track]:
    """Alternate blocks until each track's last three agree; returns those that never did."""
    blocks: dict[int, list[list[float]]] = {index: [] for index in range(len(tracks))}
    cold = set(blocks)
    for _ in range(most):
        for index, track in enumerate(tracks):
            blocks[index].append(track.run())
        # All go on until the last is warm: a pause would let one cool down.
        cold = {index for index in blocks if not is_warm(blocks[index])}
        if not cold:
            break
    return [tracks[index] for index in sorted(cold)]


def measure_pictures(cases: Sequence[BenchCase], counts: Counts, tick: Callable[[], None]) -> None:
    """e2e: prompt to picture of a cached subject, after one picture of one step that is not kept."""
    with ExitStack() as stack:
        processes = [(case, case.start(stack)) for case in cases]
        for case, process in processes:
            process.ask("picture", prompt=case.prompt, steps=1)
        for case, process in alternate(processes, counts.pictures):
            case.keep("e2e", process.ask("picture", prompt=case.prompt, **case.drawing.options()))
            tick()


def measure_memory(case: BenchCase) -> tuple[MemoryPeak, MemoryTrace]:
    """One picture of a cached subject in a fresh process, its memory sampled from the interpreter's start."""
    with MeasuredProcess() as process:
        sampler = MemorySampler(process.pid).start()
        process.load(case.bundle.folder, case.settings)
        process.ask("use_subject", path=str(case.subject))
        process.ask("picture", prompt=case.prompt, **case.drawing.options())
        stages = process.ask("stages")
        peak = sampler.stop()
    origin = sampler.readings[0].at_s
    spans = tuple(
        Span(stage=stage, begin_s=begin - origin, end_s=end - origin) for stage, begin, end in stages
    )
    return peak, thin_trace(sampler, spans)


def thin_trace(
    sampler: MemorySampler, spans: tuple[Span, ...] = (), points: int = TRACE_POINTS
) -> MemoryTrace:
    """At most `points` readings: of each stretch of time the one with the most private memory."""
    readings = sampler.readings
    size = -(-len(readings) // points)
    kept = [
        max(readings[start : start + size], key=lambda reading: reading.private_mb)
        for start in range(0, len(readings), size)
    ]
    return MemoryTrace(
        at_s=tuple(round(reading.at_s - readings[0].at_s, 4) for reading in kept),
        private_mb=tuple(round(reading.private_mb, 3) for reading in kept),
        file_mb=tuple(
            None if reading.file_backed_mb is None else round(reading.file_backed_mb, 3) for reading in kept
        ),
        resident_mb=tuple(round(reading.resident_mb, 3) for reading in kept),
        spans=spans,
        samples=len(readings),
    )


def measure_sustained(case: BenchCase, minutes: float, tick: Callable[[float], None]) -> list[float]:
    """Call the denoiser for `minutes`; seconds from the loop's start at which each call ended."""
    ends: list[float] = []
    with ExitStack() as stack:
        process = case.start(stack, "denoiser")
        for taken in _calls_until(process, minutes * 60):
            ends.append((ends[-1] if ends else 0.0) + taken / 1e3)
            tick(ends[-1])
    return ends


def _calls_until(process: MeasuredProcess, seconds: float) -> Iterator[float]:
    spent = 0.0
    while spent < seconds:
        (taken,) = process.ask("call", graph="denoiser", count=1)
        spent += taken / 1e3
        yield taken
