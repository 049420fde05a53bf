"""The subcommand `dreamcache bench`: measure bundles, or read records, and report (benchmarks/README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dreamcache.benchmarks.process.child import checked_settings
from dreamcache.benchmarks.protocol.measure import Plan
from dreamcache.benchmarks.protocol.measure import bench as measure
from dreamcache.runtime.bundle.contract import GuidanceMode
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import check_output, replacing
from dreamcache.runtime.progress import progress_bar
from dreamcache.runtime.sampling.guidance import MODES


def bench(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE", help="Bundles to measure one after the other; with --merge, records."
        ),
    ],
    profile: Annotated[str, typer.Option(help="speed or memory.")] = "speed",
    provider: Annotated[
        list[str] | None,
        typer.Option("--provider", help="ONNX Runtime provider, e.g. cpu, cuda; repeatable."),
    ] = None,
    math: Annotated[
        str, typer.Option(help="exact, or fast: bf16 in provider openvino, where the CPU has it.")
    ] = "exact",
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps a picture: 20, or 4 with --quick.")
    ] = None,
    guidance_mode: Annotated[str | None, typer.Option(help="dual, text_first, classic or none.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="START END", help="Guide between these fractions of the steps alone."),
    ] = None,
    step_cache: Annotated[
        int | None, typer.Option(metavar="K", help="Whole denoiser at every so many steps.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few samples, marked so everywhere.")] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Another bundle, measured in alternation.")
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Cost against steps, batch and pictures per subject too.")
    ] = False,
    sustained: Annotated[
        float, typer.Option(min=0, metavar="MIN", help="Loop so many minutes: last speed over first.")
    ] = 0,
    reference: Annotated[Path | None, typer.Option(help="Picture to cache; a drawn one by default.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="The arguments are records: one table of all.")
    ] = False,
    methods: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measured peers (JSON) for the break-even plot.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Record to write.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Table to write.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Table to write, unrounded.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Page with plots to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
) -> None:
    """Measure load, steps, pictures and memory of bundles by a fixed protocol; or merge such records."""
    from rich.console import Console

    from dreamcache.benchmarks.record import dump_record, read_record
    from dreamcache.benchmarks.report.break_even import read_methods
    from dreamcache.benchmarks.report.rows import to_csv, to_markdown
    from dreamcache.benchmarks.report.terminal import show

    _check_outputs([json_out, markdown, csv, html], overwrite)
    # Whatever a report needs is there before an hour is spent on what it reports.
    peers = [] if methods is None else read_methods(methods)
    if html is not None:
        from dreamcache.benchmarks.report.page import to_html
    if merge:
        if json_out is not None or against is not None:
            raise typer.BadParameter("records are merged into tables only", param_hint="'--merge'")
        records = [read_record(path) for path in bundles]
    else:
        if against is not None and len(bundles) != 1:
            raise typer.BadParameter(
                "exactly one bundle is measured against another", param_hint="'--against'"
            )
        settings = checked_settings(profile, provider, threads, math)
        plan = Plan(
            settings,
            steps,
            quick,
            sustained,
            scaling,
            reference=reference,
            guidance_mode=checked_mode(guidance_mode),
            guidance_interval=guidance_interval,
            step_cache=step_cache,
        )
        with progress_bar("measuring") as advance:
            records = [measure(bundles, against, plan, advance)]
    show(records, Console())
    if json_out is not None:
        _write(json_out, dump_record(records[0]), overwrite)
    if markdown is not None:
        _write(markdown, to_markdown(records), overwrite)
    if csv is not None:
        _write(csv, to_csv(records), overwrite)
    if html is not None:
        _write(html, to_html(records, peers), overwrite)


def checked_mode(name: str | None) -> GuidanceMode | None:
    """Raises: SettingsError for a guidance mode that does not exist."""
    for known in MODES:
        if name == known:
            return known
    if name is not None:
        raise SettingsError(f"guidance mode: one of {', '.join(MODES)} is expected, received {name!r}")
    return None


def _check_outputs(places: Sequence[Path | None], overwrite: bool) -> None:
    named = [check_output(place, overwrite).absolute() for place in places if place is not None]
    if len(set(named)) < len(named):
        raise SettingsError("two outputs have the same name; choose another for one of them")


def _write(place: Path, text: str, overwrite: bool) -> None:
    with replacing(place, overwrite) as beside:
        beside.write_text(text, encoding="utf-8")
