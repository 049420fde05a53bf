"""The record in a terminal: one table of figures, one of scaling, and the notes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from dreamcache.benchmarks.protocol.scaling import scaling_points
from dreamcache.benchmarks.record import Record, ScalingPoint
from dreamcache.benchmarks.report.rows import TITLES, formatted, rows, scaling_cells
from dreamcache.runtime.cli.words import cell


def show(records: Sequence[Record], console: Console) -> None:
    """Print all of it."""
    for part in _parts(records):
        console.print(part)


def _parts(records: Sequence[Record]) -> Iterator[RenderableType]:
    found = list(rows(records))
    table = Table("")
    for row in found:
        table.add_column(cell(row.title))
    for name in found[0].labels:
        if name != "bundle":
            table.add_row(name, *(cell(row.labels[name]) for row in found))
    table.add_section()
    for name, title in TITLES.items():
        table.add_row(title, *(formatted(name, row.figures[name]) for row in found))
    yield table
    measurements = [one for record in records for one in record.measurements()]
    points = scaling_points(measurements)
    if points:
        yield _scaling_table(points)
    for row in found:
        yield from map(cell, row.notes)


def _scaling_table(points: Sequence[tuple[str, ScalingPoint]]) -> Table:
    table = Table("bundle", "axis", "value", "in all", "a picture", "samples")
    for name, point in points:
        table.add_row(*map(cell, scaling_cells(name, point)))
    return table
