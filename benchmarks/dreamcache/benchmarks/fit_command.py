"""The subcommand `dreamcache fit`: yes or no, with the figures; without a budget, the smallest that passes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dreamcache.benchmarks import options

if TYPE_CHECKING:
    from dreamcache.benchmarks.memory.fit import Answer


def fit(
    bundle: options.BundleFolder,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Private memory, e.g. 600M; default: the smallest that passes."),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=1, help="Denoising steps; memory does not depend on them.", rich_help_panel=options.PICTURE
        ),
    ] = 2,
    caching: Annotated[
        bool,
        typer.Option(
            "--caching", help="Budget for the reference's caching too.", rich_help_panel=options.PROTOCOL
        ),
    ] = False,
    first_run: Annotated[
        bool,
        typer.Option(
            "--first-run",
            help="Budget for the optimised graphs too, made anew.",
            rich_help_panel=options.PROTOCOL,
        ),
    ] = False,
    profile: options.SessionProfile = "memory",
    provider: options.Provider = None,
    threads: options.Threads = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw a picture under an enforced memory budget: yes or no (status 1), with the figures."""
    from dreamcache.benchmarks.memory.budget import parse_budget_mb
    from dreamcache.benchmarks.memory.fit import fit_budget
    from dreamcache.benchmarks.process.child import checked_settings
    from dreamcache.runtime.bundle.folder import open_bundle
    from dreamcache.runtime.progress import progress_bar

    settings = checked_settings(profile, provider, threads)
    budget_mb = None if budget is None else parse_budget_mb(budget)
    with progress_bar("checking the bundle") as advance:
        opened = open_bundle(bundle, progress=advance)
    answer = fit_budget(opened, budget_mb, settings, steps, caching, first_run, _say)
    typer.echo(
        json.dumps(asdict(answer), indent=2) if as_json else describe_answer(answer, searched=budget is None)
    )
    if not answer.fits:
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def describe_answer(answer: Answer, searched: bool) -> str:
    """The answer in a few lines."""
    bundle = f"{answer.bundle} ({answer.weights} weights, {answer.profile} profile, {answer.steps} steps)"
    if searched:
        verdict = f"{answer.budget_mb:.0f} MB is the smallest budget that passes: {bundle}"
    elif answer.fits:
        verdict = f"yes: {bundle} fits into {answer.budget_mb:.0f} MB"
    else:
        how = (
            "killed by the limit"
            if answer.killed
            else "killed, not by the limit: does the machine lack memory?"
        )
        verdict = f"no: {bundle} does not fit into {answer.budget_mb:.0f} MB ({how})"
    files = "not told apart" if answer.peak_file_mb is None else f"{answer.peak_file_mb:.0f} MB"
    group = "" if answer.peak_group_mb is None else f", control group {answer.peak_group_mb:.0f} MB"
    return "\n".join(
        (
            verdict,
            f"peaks: private {answer.peak_private_mb:.0f} MB, file-backed {files}, "
            f"resident {answer.peak_rss_mb:.0f} MB{group}",
            f"floor (interpreter and libraries): {answer.floor_mb:.0f} MB; enforced by: {answer.enforced_by}",
        )
    )
