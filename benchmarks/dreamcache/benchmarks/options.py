"""Options of `dreamcache bench` and `dreamcache fit`, in the panels of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dreamcache.runtime.cli.options import OUTPUT as OUTPUT
from dreamcache.runtime.cli.options import PICTURE as PICTURE
from dreamcache.runtime.cli.options import AsJson as AsJson
from dreamcache.runtime.cli.options import BundleFolder as BundleFolder
from dreamcache.runtime.cli.options import GuidanceInterval as GuidanceInterval
from dreamcache.runtime.cli.options import MathOption as MathOption
from dreamcache.runtime.cli.options import Overwrite as Overwrite
from dreamcache.runtime.cli.options import Provider as Provider
from dreamcache.runtime.cli.options import SessionProfile as SessionProfile
from dreamcache.runtime.cli.options import StepCache as StepCache
from dreamcache.runtime.cli.options import Threads as Threads

PROTOCOL = "Protocol"

Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Denoising steps; default 20, or 4 with --quick.", rich_help_panel=PICTURE),
]
GuidanceModeName = Annotated[
    str | None,
    typer.Option(
        "--guidance-mode", help="Guidance: dual, text_first, classic or none.", rich_help_panel=PICTURE
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(help="Reference picture; default: a drawn toy.", rich_help_panel=PICTURE),
]
Quick = Annotated[
    bool,
    typer.Option("--quick", help="Fewer samples, marked in every output.", rich_help_panel=PROTOCOL),
]
Against = Annotated[
    Path | None,
    typer.Option(
        metavar="BUNDLE",
        help="Second bundle, measured in alternation with the first.",
        rich_help_panel=PROTOCOL,
    ),
]
Scaling = Annotated[
    bool,
    typer.Option(
        "--scaling", help="Cost by steps, batch and pictures per subject.", rich_help_panel=PROTOCOL
    ),
]
Sustained = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="MIN",
        help="Minutes of a loop that compares its last speed with its first; default 0 = none.",
        rich_help_panel=PROTOCOL,
    ),
]
Merge = Annotated[
    bool,
    typer.Option("--merge", help="Tables of existing records, given as arguments.", rich_help_panel=OUTPUT),
]
Methods = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Measured peers (JSON) for the break-even plot.", rich_help_panel=OUTPUT
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Record to write.", rich_help_panel=OUTPUT)
]
MarkdownFile = Annotated[
    Path | None, typer.Option("--markdown", metavar="FILE", help="Table to write.", rich_help_panel=OUTPUT)
]
CsvFile = Annotated[
    Path | None,
    typer.Option("--csv", metavar="FILE", help="Unrounded table to write.", rich_help_panel=OUTPUT),
]
HtmlFile = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Page with plots to write.", rich_help_panel=OUTPUT),
]
