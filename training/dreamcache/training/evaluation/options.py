"""Options of `dreamcache evaluate`, in the panels of their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from dreamcache.runtime.bundle.sampling import GuidanceMode

STAGES = ("all", "generate", "score")
MODEL, PICTURES, SAMPLING, METRICS, OUTPUT = "Model", "Pictures", "Sampling", "Metrics", "Output"

Adapters = Annotated[
    Path | None,
    typer.Option(help="Adapters trained on the base; default: the miniature's.", rich_help_panel=MODEL),
]
Mode = Annotated[
    str,
    typer.Option(
        help=f"Guidance: {', '.join(get_args(GuidanceMode))}; default: as recommended by the adapters.",
        rich_help_panel=SAMPLING,
    ),
]
Guidance = Annotated[float | None, typer.Option(help="Text guidance scale.", rich_help_panel=SAMPLING)]
ReferenceGuidance = Annotated[
    float | None, typer.Option(help="Reference guidance scale.", rich_help_panel=SAMPLING)
]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="START END", help="Part of the steps with guidance (bundles only).", rich_help_panel=SAMPLING
    ),
]
StepCache = Annotated[
    int,
    typer.Option(min=1, help="Steps per run of the whole denoiser (bundles only).", rich_help_panel=SAMPLING),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="File of the results.", rich_help_panel=OUTPUT)
]
Base = Annotated[str, typer.Option(help="Base: diffusers folder, Hub id or mini.", rich_help_panel=MODEL)]
Bundle = Annotated[
    Path | None, typer.Option(help="Bundle to score instead of PyTorch.", rich_help_panel=MODEL)
]
Identities = Annotated[int, typer.Option(min=1, help="Held-out toys.", rich_help_panel=PICTURES)]
Scenes = Annotated[int, typer.Option(min=1, max=12, help="Scenes per toy.", rich_help_panel=PICTURES)]
Pairs = Annotated[
    int,
    typer.Option(min=0, help="Pictures of two held-out toys each (PyTorch only).", rich_help_panel=PICTURES),
]
Condition = Annotated[
    list[str] | None,
    typer.Option(
        help="Condition: text_only, dreamcache or wrong_cache; repeatable; default: all.",
        rich_help_panel=PICTURES,
    ),
]
Steps = Annotated[int, typer.Option(min=1, help="Denoising steps.", rich_help_panel=SAMPLING)]
Benchmark = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Benchmark in the layout of google/dreambooth.")
]
PyTorchBase = Annotated[
    str | None,
    typer.Option(
        help="Base for PyTorch: diffusers folder, Hub id or mini; default mini unless --bundle is given.",
        rich_help_panel=MODEL,
    ),
]
Bundles = Annotated[
    list[Path] | None, typer.Option(help="Bundle to score; repeatable.", rich_help_panel=MODEL)
]
Subject = Annotated[
    list[str] | None,
    typer.Option(help="Subject to score; repeatable; default: all.", rich_help_panel=PICTURES),
]
Prompts = Annotated[
    int | None,
    typer.Option(min=1, help="Prompts per subject; default: all.", rich_help_panel=PICTURES),
]
Images = Annotated[int, typer.Option(min=1, max=10, help="Pictures per prompt.", rich_help_panel=PICTURES)]
ReferenceImage = Annotated[
    int,
    typer.Option(
        min=0, help="Number of the reference among a subject's photographs.", rich_help_panel=PICTURES
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the noise.", rich_help_panel=PICTURES)]
StepsOrRecommended = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Denoising steps; default: as recommended by bundle or adapters.",
        rich_help_panel=SAMPLING,
    ),
]
Dino = Annotated[
    str,
    typer.Option(help="DINO ViT-S/16 in safetensors: folder or Hub id.", rich_help_panel=METRICS),
]
Clip = Annotated[
    str,
    typer.Option(help="CLIP ViT-B/32 in safetensors: folder or Hub id.", rich_help_panel=METRICS),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Masks of the photographs, <subject>/<photograph>.png.",
        rich_help_panel=METRICS,
    ),
]
Masked = Annotated[
    bool,
    typer.Option("--masked/--no-masked", help="Masked scores MDINO and MCLIP-I.", rich_help_panel=METRICS),
]
Out = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Folder of pictures, scores and table; an existing one is continued.",
        rich_help_panel=OUTPUT,
    ),
]
Stage = Annotated[str, typer.Option(help=f"Stage: {', '.join(STAGES)}.", rich_help_panel=OUTPUT)]
