"""Options of `dreamcache evaluate`, in the panels of their help."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import typer

from dreamcache.runtime.bundle.sampling import GuidanceMode

STAGES = ("all", "generate", "score")
model = partial(typer.Option, rich_help_panel="Model")
pictures = partial(typer.Option, rich_help_panel="Pictures")
sampling = partial(typer.Option, rich_help_panel="Sampling")
metrics = partial(typer.Option, rich_help_panel="Metrics")
output = partial(typer.Option, rich_help_panel="Output")

Adapters = Annotated[Path | None, model(help="Adapters trained on the base; default: the miniature's.")]
Mode = Annotated[
    str,
    sampling(help=f"Guidance: {', '.join(get_args(GuidanceMode))}; default: as recommended by the adapters."),
]
Guidance = Annotated[float | None, sampling(help="Text guidance scale.")]
ReferenceGuidance = Annotated[float | None, sampling(help="Reference guidance scale.")]
GuidanceInterval = Annotated[
    tuple[float, float] | None,
    sampling(metavar="START END", help="Part of the steps with guidance (bundles only)."),
]
StepCache = Annotated[int, sampling(min=1, help="Steps per run of the whole denoiser (bundles only).")]
JsonFile = Annotated[Path | None, output("--json", metavar="FILE", help="File of the results.")]
Base = Annotated[str, model(help="Base: diffusers folder, Hub id or mini.")]
Bundle = Annotated[Path | None, model(help="Bundle to score instead of PyTorch.")]
Identities = Annotated[int, pictures(min=1, help="Held-out toys.")]
Scenes = Annotated[int, pictures(min=1, max=12, help="Scenes per toy.")]
Pairs = Annotated[int, pictures(min=0, help="Pictures of two held-out toys each (PyTorch only).")]
Captions = Annotated[
    int, pictures(min=0, help="Pictures of captions alone, and as many in a style (PyTorch only).")
]
Condition = Annotated[
    list[str] | None,
    pictures(help="Condition: text_only, dreamcache, wrong_cache or from_scene; repeatable; default: all."),
]
Judge = Annotated[
    Path | None,
    metrics(help="Judge trained with the base, RUN/judge/judge.safetensors; default: the shipped one."),
]
Steps = Annotated[int, sampling(min=1, help="Denoising steps.")]
Benchmark = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Benchmark in the layout of google/dreambooth.")
]
PyTorchBase = Annotated[
    str | None,
    model(help="Base for PyTorch: diffusers folder, Hub id or mini; default mini unless --bundle is given."),
]
Bundles = Annotated[list[Path] | None, model(help="Bundle to score; repeatable.")]
Subject = Annotated[list[str] | None, pictures(help="Subject to score; repeatable; default: all.")]
Prompts = Annotated[int | None, pictures(min=1, help="Prompts per subject; default: all.")]
Images = Annotated[int, pictures(min=1, max=10, help="Pictures per prompt.")]
ReferenceImage = Annotated[
    int, pictures(min=0, help="Number of the reference among a subject's photographs.")
]
Seed = Annotated[int, pictures(min=0, help="Seed of the noise.")]
StepsOrRecommended = Annotated[
    int | None, sampling(min=1, help="Denoising steps; default: as recommended by bundle or adapters.")
]
Dino = Annotated[str, metrics(help="DINO ViT-S/16 in safetensors: folder or Hub id.")]
Clip = Annotated[str, metrics(help="CLIP ViT-B/32 in safetensors: folder or Hub id.")]
Masks = Annotated[
    Path | None, metrics(metavar="FOLDER", help="Masks of the photographs, <subject>/<photograph>.png.")
]
Masked = Annotated[bool, metrics("--masked/--no-masked", help="Masked scores MDINO and MCLIP-I.")]
Out = Annotated[
    Path, output(metavar="FOLDER", help="Folder of pictures, scores and table; an existing one is continued.")
]
Stage = Annotated[str, output(help=f"Stage: {', '.join(STAGES)}.")]
