"""The record as Markdown: the table, what was not run, the bars, and what the figures leave open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

HEADER = (
    "method",
    "engine",
    "precision",
    "s a step",
    "first picture, s",
    "tenth picture, s",
    "private MB",
    "file-backed MB",
    "disk MB",
)


def to_markdown(record: Mapping[str, Any]) -> str:
    """The whole page."""
    return "\n".join(_lines(record)) + "\n"


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    host, settings = record["host"], record["settings"]
    day = record["made"][:10]
    yield f"{host['cpu']}, {host['usable_cores']} cores, {host['system']}, {day}; {_libraries(record)}."
    yield (
        f"Base: {settings['base']}. A step is two UNet calls (classic guidance), a picture {settings['steps']} steps; "
        f"medians of {settings['repeats']} calls, each case in a fresh process, one after another."
    )
    if settings["weights_differ"]:
        yield f"**Not the same weights:** {', '.join(settings['weights_differ'])} was exported from another base."
    for title, personalised in (("With a subject", True), ("Plain models, for comparison", False)):
        rows = [row for row in record["rows"] if row["personalised"] == personalised]
        if rows:
            yield from ("", f"**{title}**", "", *_table(sorted(rows, key=lambda row: float(row["tenth_s"]))))
    missing = [
        (name, case["reason"]) for name, case in record["cases"].items() if case["status"] != "measured"
    ]
    if missing:
        yield from ("", "**Not run**", "", *(f"- {name}: {reason}" for name, reason in missing))
    yield from ("", "**Bars**", "", *(f"- {bar['verdict']}: {bar['text']}" for bar in record["bars"]))
    notes: dict[str, list[str]] = {}
    for name, case in record["cases"].items():
        for note in case.get("notes", ()):
            notes.setdefault(note, []).append(name)
    if notes:
        yield from ("", "**Notes**", "", *(f"- {', '.join(names)}: {note}" for note, names in notes.items()))


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(HEADER)} |"
    yield f"|{'---|' * len(HEADER)}"
    for row in rows:
        cells = [row["method"], row["engine"], row["precision"], f"{row['step_s']:.2f}"]
        cells += [f"{row['first_s']:.1f}", f"{row['tenth_s']:.1f}"]
        cells += [_megabytes(row[name]) for name in ("private_mb", "file_backed_mb", "disk_mb")]
        yield f"| {' | '.join(cells)} |"


def _megabytes(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}".replace(",", " ")


def _libraries(record: Mapping[str, Any]) -> str:
    versions: dict[str, str] = {}
    for case in record["cases"].values():
        versions |= case.get("libraries", {})
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
