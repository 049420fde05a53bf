"""Options of `dreamcache bench` and `dreamcache fit`, in the panels of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PICTURE, SPEED, PROTOCOL, OUTPUT = "Picture", "Memory and speed", "Protocol", "Output"

Provider = Annotated[
    list[str] | None,
    typer.Option("--provider", help="ONNX Runtime provider; repeatable; default cpu.", rich_help_panel=SPEED),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads within an operator; default: ONNX Runtime's choice.", rich_help_panel=SPEED),
]
LoadProfile = Annotated[
    str, typer.Option("--profile", help="Session settings: speed or memory.", rich_help_panel=SPEED)
]
MathOption = Annotated[
    str,
    typer.Option(help="Arithmetic: exact, or fast (bf16 with provider openvino).", rich_help_panel=SPEED),
]
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
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="START END", help="Part of the steps with guidance; default 0 1.", rich_help_panel=PICTURE
    ),
]
StepCache = Annotated[
    int | None,
    typer.Option(
        metavar="K", help="Steps per run of the whole denoiser; default 1.", rich_help_panel=PICTURE
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
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replacement of existing outputs.", rich_help_panel=OUTPUT)
]
