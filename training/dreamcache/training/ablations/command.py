"""The subcommand `dreamcache ablate`: one table of the paper's ablations or open questions, on the miniature."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.training.ablations.columns import cells, columns
from dreamcache.training.ablations.tables import TABLES

if TYPE_CHECKING:
    from dreamcache.training.ablations.rows import Ablation
    from dreamcache.training.ablations.tables import Table


def ablate(
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...",
            help=f"Table: {', '.join(TABLES)}; all = every table.",
        ),
    ],
    run: Annotated[Path, typer.Option(help="Folder of adapters and rows; existing ones are kept.")] = Path(
        "runs/ablations"
    ),
    out: Annotated[
        Path | None, typer.Option(help="Folder of TABLE.json and TABLE.png; default: the run's.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples of the drawn world.")] = 42_000,
    pairs: Annotated[int, typer.Option(min=1, help="Samples with two toys (table subjects).")] = 8_000,
    steps: Annotated[int, typer.Option(min=1, help="Training steps per row.")] = 300,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 64,
    identities: Annotated[int, typer.Option(min=1, help="Held-out toys.")] = 100,
    scenes: Annotated[int, typer.Option(min=1, max=12, help="Scenes per toy.")] = 2,
    base: Annotated[str, typer.Option(help="Base: diffusers folder of a miniature, or mini.")] = "mini",
    judge: Annotated[
        Path | None, typer.Option(help="Judge of a miniature of another size; default: the shipped one.")
    ] = None,
) -> None:
    """Train and compare variants of the adapters on the miniature: the paper's tables, and its open questions."""
    from rich.console import Console

    from dreamcache.runtime.files import write_json
    from dreamcache.training.ablations.rows import Ablation, Protocol

    unknown = sorted(set(tables) - {*TABLES, "all"})
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r} is not one of {', '.join((*TABLES, 'all'))}", param_hint="'TABLE'"
        )
    protocol = Protocol(samples, pairs, steps, batch, identities, scenes)
    judge_file = None if judge is None else str(judge)
    ablation = Ablation(run, replace(protocol, base=base, judge=judge_file))
    for name in TABLES if "all" in tables else tables:
        table = TABLES[name]
        record = {
            "question": table.question,
            "protocol": asdict(ablation.protocol),
            "rows": [ablation.record(row) for row in table.rows],
        }
        folder = run if out is None else out
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{name}.json", record)
        _draw(ablation, table, folder / f"{name}.png")
        Console().print(_as_table(record))


def _draw(ablation: Ablation, table: Table, path: Path) -> None:
    """A row for each toy: its reference, then the same prompt and noise in every row of the table."""
    from dreamcache.training.evaluation.sheets import Column, draw_sheet

    every = ablation.protocol.scenes
    if table.rows[0].pair is not None:
        pairs = ablation.pair_cases[: 4 * every : every]
        titles = [[f"{c.toys[0].kind} and {c.toys[1].kind}", c.scene] for c in pairs]
        groups = [Column("references, left and right", [list(case.references) for case in pairs], titles)]
    else:
        cases = ablation.cases[: 4 * every : every]
        places = [[f"{case.toy.kind}, {case.scene}"] for case in cases]
        groups = [Column("reference", [[case.reference] for case in cases], places)]
    for row in table.rows:
        pictures = ablation.examples(row)[: 4 * every : every]
        groups.append(Column(row.name, [[picture] for picture in pictures]))
    draw_sheet(groups, path, table.question)


def _as_table(record: dict[str, Any]) -> Any:
    from rich.table import Table as Printed

    titles = columns(record)
    table = Printed("", *titles, title=record["question"])
    for row in record["rows"]:
        table.add_row(row["name"], *cells(row, titles))
    return table
