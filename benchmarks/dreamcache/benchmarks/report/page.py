"""One self-contained HTML page from records: the table, the plots as inline SVG, the notes, the raw record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from dreamcache.benchmarks.protocol.scaling import scaling_points
from dreamcache.benchmarks.record import Measurement, Record, dump_record, numbered
from dreamcache.benchmarks.report import plots
from dreamcache.benchmarks.report.break_even import Method, cheaper_from, methods
from dreamcache.benchmarks.report.rows import TITLES, formatted, rows, scaling_cells

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td + td { white-space: nowrap; }
figure { margin: 0; } figcaption, .notes { color: #555; font-size: .88rem; }
svg { width: 100%; height: auto; } pre { overflow-x: auto; font-size: .75rem; }
"""


def to_html(records: Sequence[Record], peers: Sequence[Method] = ()) -> str:
    """The page. peers: measured methods for the break-even plot."""
    body = "\n".join(_sections(records, peers))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>dreamcache bench</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _sections(records: Sequence[Record], peers: Sequence[Method]) -> Iterator[str]:
    first = records[0]
    measurements = [one for record in records for one in record.measurements()]
    yield "<h1>dreamcache bench</h1>"
    for record in records:
        yield f'<p class="notes">{escape(_host_line(record))}</p>'
    yield _figures_table(records)
    yield _notes(records)
    points = scaling_points(measurements)
    if points:
        head = ("bundle", "axis", "value", "in all", "a picture", "samples")
        yield "<h2>Scaling</h2>" + _table(head, [scaling_cells(name, point) for name, point in points])
    yield _plot(
        "Where the time goes",
        plots.stage_breakdown(measurements),
        "Medians. Denoising is steps × UNet calls a step × the median call; the rest is measured end to end.",
    )
    yield _plot(
        "Latency of a UNet call",
        plots.latency_distribution(measurements),
        "Every sample. Dotted: the median and the 90th percentile.",
    )
    for title, one in numbered(measurements):
        yield _plot(
            f"Memory over time: {title}",
            plots.memory_over_time(one),
            "One picture of a cached subject in a fresh process, sampled from outside. Private memory stays under "
            "pressure; file-backed memory can be dropped and read again.",
        )
        yield _break_even(title, one, peers)
    raw = "".join(escape(dump_record(record)) for record in records)
    yield f"<h2>Record</h2><details><summary>JSON, schema {first.schema_version}</summary><pre>{raw}</pre></details>"


def _host_line(record: Record) -> str:
    host = record.host
    ram = "" if host.ram_bytes is None else f", {host.ram_bytes / 1e9:.1f} GB RAM"
    load = "" if host.load_before is None else f", load {host.load_before:.2f} before"
    governor = "governor unknown" if host.governor is None else f"governor {host.governor}"
    libraries = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return (
        f"{record.created}: {host.cpu}, {host.usable_cores} of {host.cores} cores{ram}, {governor}{load}; "
        f"{' '.join(host.cpu_features)}; {host.system}; {libraries}"
    )


def _figures_table(records: Sequence[Record]) -> str:
    found = list(rows(records))
    head = ["", *(row.title for row in found)]
    body = [[name, *(row.labels[name] for row in found)] for name in found[0].labels if name != "bundle"]
    body += [
        [title, *(formatted(name, row.figures[name]) for row in found)] for name, title in TITLES.items()
    ]
    return _table(head, body)


def _notes(records: Sequence[Record]) -> str:
    notes = [note for row in rows(records) for note in row.notes]
    return '<ul class="notes">' + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"


def _break_even(title: str, one: Measurement, peers: Sequence[Method]) -> str:
    known = [*methods(one), *peers]
    lines = []
    for other in known[1:]:
        count = cheaper_from(known[0], other)
        verdict = "never cheaper" if count is None else f"no dearer from picture {count} on"
        how = f" – computed: {other.computed}" if other.computed else " – measured"
        lines.append(f"<li>DreamCache against {escape(other.name)}: {verdict}{escape(how)}</li>")
    caption = "Solid lines are measured, dashed ones computed from this device's plain UNet call."
    plot = _plot(f"Break-even: {title}", plots.break_even(one, peers), caption)
    return plot + (f'<ul class="notes">{"".join(lines)}</ul>' if lines else "")


def _plot(title: str, svg: str | None, caption: str) -> str:
    if svg is None:
        return f'<h2>{escape(title)}</h2><p class="notes">Absent: not measured.</p>'
    return f"<h2>{escape(title)}</h2><figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in body]
    return f"<table><tr>{top}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
