"""Options of `dreamcache bench` and `dreamcache fit` that the runner's commands do not have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dreamcache.runtime.cli.options import output, picture

protocol = partial(typer.Option, rich_help_panel="Protocol")

Steps = Annotated[int | None, picture(min=1, help="Denoising steps; default 20, or 4 with --quick.")]
Reference = Annotated[Path | None, picture(help="Reference picture; default: a drawn toy.")]

Quick = Annotated[bool, protocol("--quick", help="Fewer samples, marked in every output.")]
Against = Annotated[
    Path | None, protocol(metavar="BUNDLE", help="Second bundle, measured in alternation with the first.")
]
Scaling = Annotated[bool, protocol("--scaling", help="Cost by steps, batch and pictures per subject.")]
Sustained = Annotated[
    float,
    protocol(
        min=0, max=1440, metavar="MIN", help="Minutes of a loop whose last speed is compared with its first."
    ),
]

Merge = Annotated[bool, output("--merge", help="Tables of existing records, given as arguments.")]
Methods = Annotated[
    Path | None, output(metavar="FILE", help="Measured peers (JSON) for the break-even plot.")
]
JsonFile = Annotated[Path | None, output("--json", metavar="FILE", help="Record to write.")]
MarkdownFile = Annotated[Path | None, output(metavar="FILE", help="Table to write.")]
CsvFile = Annotated[Path | None, output(metavar="FILE", help="Unrounded table to write.")]
HtmlFile = Annotated[Path | None, output(metavar="FILE", help="Page with plots to write.")]
