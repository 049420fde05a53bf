"""The subcommand `dreamcache bench`: measure bundles, or read records, and report (benchmarks/README.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console

from dreamcache.benchmarks import options
from dreamcache.benchmarks.process.child import LoadSettings, checked_settings
from dreamcache.benchmarks.protocol.measure import BenchPlan, bench
from dreamcache.benchmarks.record import Record
from dreamcache.benchmarks.report.terminal import show
from dreamcache.runtime.bundle.contract import GuidanceMode
from dreamcache.runtime.cli import options as runner
from dreamcache.runtime.cli.generate import GuidanceModeName
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.files import claim_file, replacing
from dreamcache.runtime.progress import progress_bar


def bench_command(
    bundles: Annotated[
        list[Path],
        typer.Argument(metavar="BUNDLE", help="Bundles to measure in turn; with --merge: records."),
    ],
    profile: runner.SessionProfile = "speed",
    provider: runner.Provider = None,
    math: runner.MathOption = "exact",
    threads: runner.Threads = None,
    steps: options.Steps = None,
    guidance_mode: GuidanceModeName = None,
    guidance_interval: runner.GuidanceInterval = None,
    step_cache: runner.StepCache = None,
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
    overwrite: runner.Overwrite = False,
) -> None:
    """Measure load, steps, pictures and memory of bundles by a fixed protocol; or merge records."""
    from dreamcache.benchmarks.record import dump_record, read_record
    from dreamcache.benchmarks.report.break_even import read_methods
    from dreamcache.benchmarks.report.rows import to_csv, to_markdown

    _claim_outputs([json_out, markdown, csv, html], overwrite)
    # Whatever a report needs is there before an hour is spent on what it reports.
    peers = [] if methods is None else read_methods(methods)
    if html is not None:
        from dreamcache.benchmarks.report.page import to_html

    written: set[Path] = set()

    def write(found: list[Record]) -> None:
        texts: dict[Path | None, Callable[[], str]] = {
            json_out: lambda: dump_record(found[0]),
            markdown: lambda: to_markdown(found),
            csv: lambda: to_csv(found),
            html: lambda: to_html(found, peers),
        }
        for place, text in texts.items():
            if place is not None:
                # What stood there was to be replaced, or is our own from before.
                _write(place, text(), overwrite or place in written)
                written.add(place)

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
        if settings.math == "fast":
            _judge_fast_math([*bundles, *([] if against is None else [against])], settings)
        plan = BenchPlan(
            settings,
            steps,
            quick,
            sustained,
            scaling,
            reference=reference,
            # Checked with the bundle's defaults, before anything is measured.
            guidance_mode=cast("GuidanceMode | None", guidance_mode),
            guidance_interval=guidance_interval,
            step_cache=step_cache,
        )
        records = _measured(bundles, against, plan, write)
    if merge:
        write(records)
    show(records, Console())


def _judge_fast_math(bundles: list[Path], settings: LoadSettings) -> None:
    """Before anything is measured. Raises: SettingsError where a bundle's golden tensors are not met."""
    from dreamcache.runtime.pipeline import Pipeline

    for bundle in bundles:
        Pipeline.load(bundle, providers=settings.providers, math=settings.math, check_hashes=False)


def _measured(
    bundles: list[Path], against: Path | None, plan: BenchPlan, write: Callable[[list[Record]], None]
) -> list[Record]:
    """The record, written whenever it has grown; a run that is stopped leaves what it has."""
    kept: list[Record] = []

    def keep(record: Record) -> None:
        kept[:] = [record]
        write(kept)

    try:
        with progress_bar("measuring") as advance:
            return [bench(bundles, against, plan, advance, keep)]
    except BaseException:
        if kept:
            total = len(bundles) + (against is not None)
            typer.echo(
                f"dreamcache: stopped; {len(kept[0].measurements())} of {total} bundles measured", err=True
            )
            show(kept, Console())
        raise


def _claim_outputs(places: Sequence[Path | None], overwrite: bool) -> None:
    """Raises: OutputError, SettingsError where one could not be written."""
    named = [claim_file(place, overwrite).absolute() for place in places if place is not None]
    if len(set(named)) < len(named):
        raise SettingsError("two outputs have the same name; choose another for one of them")


def _write(place: Path, text: str, overwrite: bool) -> None:
    with replacing(place, overwrite) as beside:
        beside.write_text(text, encoding="utf-8")
