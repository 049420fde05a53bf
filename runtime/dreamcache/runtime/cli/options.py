"""Options that several commands share, in the panels of their help, and what they open and print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dreamcache.runtime.pipeline import Pipeline

PICTURE, SPEED, OUTPUT = "Picture", "Memory and speed", "Output"

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder made by `dreamcache export`.")]
Mask = Annotated[
    Path | None,
    typer.Option(help="Mask of the reference, same size; white = subject.", rich_help_panel=PICTURE),
]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="START END", help="Part of the steps with guidance; default 0 1.", rich_help_panel=PICTURE
    ),
]
StepCache = Annotated[
    int | None,
    typer.Option(metavar="K", help="Steps per run of the whole denoiser; default 1.", rich_help_panel=SPEED),
]
SessionProfile = Annotated[
    str,
    typer.Option(
        "--profile", help="Session settings: speed, or memory (slower, less RAM).", rich_help_panel=SPEED
    ),
]
Provider = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="ONNX Runtime provider; repeatable; default cpu.",
        rich_help_panel=SPEED,
    ),
]
MathOption = Annotated[
    str,
    typer.Option(
        "--math", help="Arithmetic: exact, or fast (bf16 with provider openvino).", rich_help_panel=SPEED
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads within an operator; default: ONNX Runtime's choice.", rich_help_panel=SPEED),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing outputs.", rich_help_panel=OUTPUT)
]
AsJson = Annotated[bool, typer.Option("--json", help="Result as JSON on stdout.", rich_help_panel=OUTPUT)]


def load_pipeline(
    bundle: Path,
    providers: list[str] | None,
    threads: int | None,
    profile: str = "speed",
    math: str = "exact",
) -> Pipeline:
    """The bundle's pipeline, as the options of that name ask; a bar on stderr while files are hashed."""
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.sessions.profiles import check_profile
    from dreamcache.runtime.sessions.providers import check_math, choose_providers

    # An option that was not given arrives as an empty list.
    chosen = choose_providers(providers or None)
    checked = check_profile(profile), check_math(math, chosen)
    with progress_bar("checking the bundle") as advance:
        return Pipeline.load(
            bundle, providers=chosen, threads=threads, profile=checked[0], math=checked[1], progress=advance
        )


def print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    """The result on stdout, for people or as JSON."""
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)
