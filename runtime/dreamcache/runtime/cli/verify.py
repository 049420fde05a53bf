"""The subcommand `dreamcache verify`: what `dreamcache.runtime.checks` finds, and the exporter's Core ML checks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamcache.runtime.cli import options
from dreamcache.runtime.cli.words import as_json as as_json_text
from dreamcache.runtime.cli.words import cell, shown
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dreamcache.runtime.checks import Check


def verify(
    bundle: options.BundleFolder,
    provider: options.Provider = None,
    threads: options.Threads = None,
    coreml: Annotated[
        bool,
        typer.Option("--coreml", help="Core ML packages too: run in PyTorch, and on macOS in Core ML."),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Check a bundle: files, weights, graphs, and that prompt and reference have an effect (status 1 if not)."""
    from rich.console import Console
    from rich.table import Table

    from dreamcache.runtime.checks import verify_bundle

    with progress_bar("verifying") as advance:
        results = list(verify_bundle(bundle, provider, threads, advance))
    if coreml and all(check.passed for check in results):
        results += _verify_coreml(bundle)
    passed = all(check.passed for check in results)
    if as_json:
        typer.echo(as_json_text({"passed": passed, "checks": [check.as_json() for check in results]}))
    else:
        table = Table("check", "", "found")
        for check in results:
            # what was found may quote the bundle: text, not markup
            table.add_row(cell(check.name), "ok" if check.passed else "FAILED", cell(check.detail))
        Console().print(table)
    if not passed:
        failed = next(check for check in results if not check.passed)
        typer.echo(shown(f"dreamcache: {failed.name}: {failed.detail}"), err=True)
        raise typer.Exit(1)


def _verify_coreml(path: Path) -> list[Check]:
    """The exporter's checks of the Core ML packages, which the runner itself cannot read."""
    from importlib.metadata import entry_points

    from dreamcache.runtime.bundle.folder import open_contract

    # coremltools warns of every PyTorch newer than itself, and of what only macOS has.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    (entry,) = entry_points(group="dreamcache.verifiers", name="coreml")
    try:
        verifier = entry.load()
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--coreml needs {error.name}; install it with: pip install 'dreamcache[coreml]'"
        ) from error
    return list(verifier(open_contract(path), lambda line: typer.echo(line, err=True)))
