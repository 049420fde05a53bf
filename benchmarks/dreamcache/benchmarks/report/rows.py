"""A record's figures as rows, of which the terminal's table, Markdown and CSV are three forms.

Every row names its weights and its fidelity gate. A measurement that lacks the gate's figures keeps its row and loses
its speeds, with the reason given.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dreamcache.benchmarks.protocol.scaling import scaling_points
from dreamcache.benchmarks.record import (
    Fidelity,
    Measurement,
    Metrics,
    Record,
    RunConditions,
    ScalingPoint,
    numbered,
)
from dreamcache.benchmarks.report.promises import aged, guard_in_force, slower_than_promised
from dreamcache.runtime.sessions.providers import describe_math

ABSENT = "–"
_SPEEDS = {name for name in Metrics.model_fields if name.endswith(("_ms", "_ms_p50", "_ms_p90"))}
_SPEEDS.add("adapter_overhead")
TITLES = {
    "cold_load_ms": "cold load",
    "warm_load_ms": "warm load",
    "first_step_ms": "first step",
    "text_ms": "text",
    "cache_ms": "cache",
    "step_ms_p50": "step p50",
    "step_ms_p90": "step p90",
    "plain_step_ms_p50": "plain step p50",
    "adapter_overhead": "adapters ×",
    "vae_decode_ms": "VAE decode",
    "e2e_ms_p50": "picture p50",
    "peak_private_mb": "peak private",
    "peak_file_mb": "peak file-backed",
    "peak_rss_mb": "peak resident",
    "cache_bytes": "cache",
    "disk_bytes": "disk",
}


@dataclass(frozen=True)
class MeasurementRow:
    """One measurement on one device.

    title: its number and the bundle's name, as plots have it too. figures: numbers, None where absent. notes: what a
    reader must know, under the row's number.
    """

    title: str
    labels: dict[str, str]
    figures: dict[str, float | int | None]
    notes: tuple[str, ...]


def rows(records: Iterable[Record]) -> Iterator[MeasurementRow]:
    """Every measurement of every record."""
    measured = [(record, one) for record in records for one in record.measurements()]
    titles = [title for title, _ in numbered([one for _, one in measured])]
    for title, (record, one) in zip(titles, measured, strict=True):
        yield _row(title, record, one)


def _row(title: str, record: Record, one: Measurement) -> MeasurementRow:
    gate = gate_figures(one.fidelity)
    figures = one.metrics.model_dump()
    notes = []
    if gate is None:
        figures |= dict.fromkeys(_SPEEDS)
        notes.append("no speed: the record lacks the fidelity gate's figures")
    elif not one.fidelity.passed:
        notes.append(f"fidelity gate FAILED: {one.fidelity.reason}")
    if one.fidelity.self_check_db:
        name, least = min(one.fidelity.self_check_db.items(), key=lambda item: item[1])
        notes.append(f"checked itself against PyTorch: at least {least:.0f} dB ({name})")
    if one.bundle.weights == "random":
        notes.append("random weights: its pictures mean nothing")
    if one.unstable():
        notes.append(f"unstable: {', '.join(one.unstable())}")
    if record.quick:
        notes.append("quick: fewer samples than the protocol asks for")
    if one.sustained is not None:
        notes.append(
            f"sustained {one.sustained.minutes:.3g} min: last {one.sustained.window_s:.0f} s at "
            f"{one.sustained.ratio:.2f} of the first's speed"
        )
    if (done := describe_math(one.conditions.math, record.host.machine)) is not None:
        notes.append(done)
    notes += [
        line for line in (aged(record, one), guard_in_force(one), slower_than_promised(record, one)) if line
    ]
    notes += [f"{name}: {reason}" for name, reason in one.absent.items()]
    conditions = one.conditions
    shallow = f" + {conditions.shallow_calls} shallow" if conditions.shallow_calls else ""
    labels = {
        "device": f"{record.host.cpu}, {record.host.usable_cores} cores",
        "bundle": one.bundle.name,
        "architecture": one.bundle.architecture,
        "weights": one.bundle.weights,
        "precision": one.bundle.precision,
        "size": f"{conditions.width}×{conditions.height}",
        "profile": conditions.profile,
        "provider": "+".join(conditions.providers),
        "math": conditions.math,
        "threads": "all" if conditions.threads is None else str(conditions.threads),
        "steps": str(conditions.steps),
        "guidance": _guidance(conditions),
        "UNet calls": f"{conditions.unet_calls}{shallow}",
        "fidelity": ABSENT if gate is None else gate,
    }
    number = title.partition(" ")[0]
    return MeasurementRow(title, labels, figures, tuple(f"{number} {note}" for note in notes))


def _guidance(conditions: RunConditions) -> str:
    start, end = conditions.guidance_interval
    return conditions.guidance + ("" if (start, end) == (0.0, 1.0) else f", {start:g} to {end:g}")


def gate_figures(fidelity: Fidelity) -> str | None:
    """The gate in a few words; None when its figures are not there."""
    if fidelity.denoiser_db is None or fidelity.reference_ratio is None:
        return None
    verdict = "" if fidelity.passed else "FAILED "
    final = "" if fidelity.final_latent_db is None else f", final {fidelity.final_latent_db:.0f} dB"
    return f"{verdict}{fidelity.denoiser_db:.0f} dB{final}, condition {fidelity.reference_ratio:.3f}"


def formatted(name: str, value: float | int | None) -> str:
    """A figure with its unit, in at most four digits."""
    if value is None:
        return ABSENT
    if name == "adapter_overhead":
        return f"{value:.3f}×"
    if name.endswith("_bytes"):
        return f"{value / 1e6:.4g} MB"
    if name.endswith("_mb"):
        return f"{value:.4g} MB"
    if value >= 10_000:
        return f"{value / 1e3:.4g} s"
    return f"{value:.4g} ms"


def to_markdown(records: Sequence[Record]) -> str:
    """A table with a measurement a column, since figures are many and devices few; notes follow."""
    found = list(rows(records))
    head = ["", *(row.title for row in found)]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [
        _line([name, *(row.labels[name] for row in found)]) for name in found[0].labels if name != "bundle"
    ]
    for name, title in TITLES.items():
        unit = " (bytes of a subject)" if name == "cache_bytes" else ""
        lines.append(_line([title + unit, *(formatted(name, row.figures[name]) for row in found)]))
    notes = [note for row in found for note in row.notes]
    points = scaling_points([one for record in records for one in record.measurements()])
    if points:
        lines += [
            "",
            _line(["bundle", "axis", "value", "in all", "a picture", "samples"]),
            _line(["---"] * 6),
        ]
    lines += [_line(scaling_cells(name, point)) for name, point in points]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def to_csv(records: Sequence[Record]) -> str:
    """One line a measurement, figures under the names of the record's metrics, unrounded."""
    found = list(rows(records))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*found[0].labels, *Metrics.model_fields, "notes"])
    for row in found:
        values = ["" if row.figures[name] is None else row.figures[name] for name in Metrics.model_fields]
        writer.writerow([*row.labels.values(), *values, "; ".join(row.notes)])
    return buffer.getvalue()


def scaling_cells(name: str, point: ScalingPoint) -> list[str]:
    total, one = formatted("total_ms", point.total_ms), formatted("per_picture_ms", point.per_picture_ms)
    return [name, point.axis, str(point.value), total, one, "computed" if point.computed else str(point.n)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
