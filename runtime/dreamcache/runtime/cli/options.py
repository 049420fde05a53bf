"""What several commands share: options in the panels of their help, old spellings, what they open and print."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dreamcache.runtime.cli import words
from dreamcache.runtime.progress import progress_bar

if TYPE_CHECKING:
    from dreamcache.runtime.pipeline import Pipeline

PICTURE, SPEED, OUTPUT = "Picture", "Memory and speed", "Output"
picture = partial(typer.Option, rich_help_panel=PICTURE)
speed = partial(typer.Option, rich_help_panel=SPEED)
output = partial(typer.Option, rich_help_panel=OUTPUT)

BundleFolder = Annotated[
    Path,
    typer.Argument(
        metavar="BUNDLE", help="Folder made by `dreamcache export`, owner/name on the Hub, or mini."
    ),
]
Mask = Annotated[Path | None, picture(help="Mask of the reference, same size; white = subject.")]
Segmenter = Annotated[
    str | None,
    picture(
        metavar="FILE[:FORM]",
        help="Salient-object model (.onnx) that finds the subject; FORM: birefnet, isnet, modnet or u2net; default: "
        "the bundle's own.",
    ),
]
MaxPixels = Annotated[
    int | None, picture(min=1, metavar="N", help="Pixels of the largest picture read; default 25000000.")
]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    picture(metavar="START END", help="Part of the steps with guidance; default 0 1."),
]
StepCache = Annotated[int | None, speed(metavar="K", help="Steps per run of the whole denoiser; default 1.")]
SessionProfile = Annotated[
    str, speed("--profile", help="Session settings: speed, or memory (slower, less RAM).")
]
Provider = Annotated[
    list[str] | None,
    speed("--provider", metavar="NAME", help="ONNX Runtime provider (repeatable), or openvino; default cpu."),
]
MathOption = Annotated[
    str, speed("--math", help="Arithmetic: exact, or fast (bf16 with provider openvino, or on Arm).")
]
Threads = Annotated[int | None, speed(help="Threads within an operator; default: ONNX Runtime's choice.")]
Overwrite = Annotated[bool, output("--overwrite", help="Replace existing outputs.")]
AsJson = Annotated[bool, output("--json", help="Result as JSON on stdout.")]


class RenamedGroup(TyperGroup):
    """A group whose commands were spelled otherwise once; a subclass knows how."""

    def answer(self, arguments: list[str]) -> str | None:
        """The line for an old spelling; None for arguments that the group takes."""
        raise NotImplementedError

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave with status 2 after one line for an old spelling."""
        if (line := self.answer(args)) is not None:
            typer.echo(f"dreamcache: {line}", err=True)
            ctx.exit(2)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


def open_pipeline(
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
    typer.echo(words.as_json(result) if as_json else words.shown(text))
