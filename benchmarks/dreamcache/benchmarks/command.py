"""The subcommand `dreamcache bench`: measure bundles, or read records, and report (benchmarks/README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dreamcache.benchmarks import options
from dreamcache.benchmarks.process.child import checked_settings
from dreamcache.benchmarks.protocol.measure import BenchPlan
from dreamcache.benchmarks.protocol.measure import bench as measure
from dreamcache.runtime.bundle.contract import GuidanceMode
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import check_output, replacing
from dreamcache.runtime.progress import progress_bar
from dreamcache.runtime.sampling.guidance import MODES


def bench(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE", help="Bundles to measure in turn; with --merge: records."),
    ],
    profile: options.SessionProfile = "speed",
    provider: options.Provider = None,
    math: options.MathOption = "exact",
    threads: options.Threads = None,
    steps: options.Steps = None,
    guidance_mode: options.GuidanceModeName = None,
    guidance_interval: options.GuidanceInterval = None,
    step_cache: options.StepCache = None,
    reference: options.Reference = None,
    quick: options.Quick = False,
    against: options.Against = None,
    scaling: options.Scaling = False,
    sustained: options.Sustained = 0,
    merge: options.Merge = False,
    methods: options.Methods = None,
    json_out: options.JsonFile = None,
    markdown: options.MarkdownFile = None,
    csv: options.CsvFile = None,
    html: options.HtmlFile = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure load, steps, pictures and memory of bundles by a fixed protocol; or merge records."""
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
        plan = BenchPlan(
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
