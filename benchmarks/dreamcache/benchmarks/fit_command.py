"""The subcommand `dreamcache fit`: yes or no, with the figures; without a budget, the smallest that passes."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from dreamcache.benchmarks import options
from dreamcache.runtime.cli import options as runner
from dreamcache.runtime.cli.words import as_json as as_json_text
from dreamcache.runtime.cli.words import shown

if TYPE_CHECKING:
    from dreamcache.benchmarks.memory.fit import Answer


def fit(
    bundle: runner.BundleFolder,
    budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Private memory, e.g. 600M; default: the smallest that passes."),
    ] = None,
    steps: Annotated[
        int, options.picture(min=1, help="Denoising steps; memory does not depend on them.")
    ] = 2,
    caching: Annotated[
        bool, options.protocol("--caching", help="Budget for the reference's caching too.")
    ] = False,
    first_run: Annotated[
        bool, options.protocol("--first-run", help="Budget for the optimised graphs too, made anew.")
    ] = False,
    profile: runner.SessionProfile = "memory",
    provider: runner.Provider = None,
    threads: runner.Threads = None,
    as_json: runner.AsJson = False,
) -> None:
    """Draw a picture under an enforced memory budget: yes or no (status 1), with the figures."""
    from dreamcache.benchmarks.memory.fit import fit_budget
    from dreamcache.benchmarks.process.child import checked_settings
    from dreamcache.runtime.budgets.plan import MB, parse_bytes
    from dreamcache.runtime.bundle.folder import open_bundle
    from dreamcache.runtime.progress import progress_bar

    settings = checked_settings(profile, provider, threads)
    budget_mb = None if budget is None else parse_bytes(budget, "--budget", bare=1) / MB
    with progress_bar("checking the bundle") as advance:
        opened = open_bundle(bundle, progress=advance)
    answer = fit_budget(opened, budget_mb, settings, steps, caching, first_run, _say)
    typer.echo(
        as_json_text(asdict(answer)) if as_json else shown(describe_answer(answer, searched=budget is None))
    )
    if not answer.fits:
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(shown(line), err=True)


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
