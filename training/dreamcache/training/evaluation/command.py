"""Score pictures of subjects: toys of the drawn world, or DreamBooth's benchmark."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from dreamcache.runtime.bundle.sampling import GuidanceMode
from dreamcache.runtime.cli.old_spellings import RenamedGroup
from dreamcache.runtime.settings import Options

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


class _Evaluate(RenamedGroup):
    def answer(self, arguments: list[str]) -> str | None:
        """Toys were evaluated without a command, the benchmark with --benchmark."""
        if not arguments or not arguments[0].startswith("-") or "--help" in arguments:
            return None
        words = [word for argument in arguments for word in argument.split("=", 1)]
        if "--benchmark" not in words[:-1]:
            return f"drawn toys are now scored by `dreamcache evaluate toys {shlex.join(arguments)}`"
        at = words.index("--benchmark")
        command = shlex.join([words[at + 1], *words[:at], *words[at + 2 :]])
        return f"DreamBooth's benchmark is now run by `dreamcache evaluate dreambooth {command}`"


evaluate = typer.Typer(cls=_Evaluate, no_args_is_help=True, add_completion=False, help=__doc__)


@evaluate.command()
def toys(
    base: Annotated[
        str, typer.Option(help="Base: diffusers folder, Hub id or mini.", rich_help_panel=MODEL)
    ] = "mini",
    adapters: Adapters = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle to score instead of PyTorch.", rich_help_panel=MODEL)
    ] = None,
    identities: Annotated[int, typer.Option(min=1, help="Held-out toys.", rich_help_panel=PICTURES)] = 200,
    scenes: Annotated[int, typer.Option(min=1, max=12, help="Scenes per toy.", rich_help_panel=PICTURES)] = 4,
    pairs: Annotated[
        int,
        typer.Option(
            min=0, help="Pictures of two held-out toys each (PyTorch only).", rich_help_panel=PICTURES
        ),
    ] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            help="Condition: text_only, dreamcache or wrong_cache; repeatable; default: all.",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.", rich_help_panel=SAMPLING)] = 20,
    mode: Mode = "",
    guidance: Guidance = None,
    reference_guidance: ReferenceGuidance = None,
    guidance_interval: GuidanceInterval = None,
    step_cache: StepCache = 1,
    json_file: JsonFile = None,
) -> None:
    """Score identity and scene of held-out toys of the drawn world."""
    options = _options(
        bundle is not None, steps, mode, guidance, reference_guidance, guidance_interval, step_cache
    )
    if bundle is not None and pairs:
        raise typer.BadParameter("is drawn by PyTorch alone: leave out --bundle", param_hint="'--pairs'")
    from dreamcache.training.evaluation.toys.toys import ToyRequest, evaluate_toys

    evaluate_toys(
        ToyRequest(base, adapters, bundle, identities, scenes, pairs, condition or [], options, json_file)
    )


@evaluate.command()
def dreambooth(
    benchmark: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Benchmark in the layout of google/dreambooth.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Base for PyTorch: diffusers folder, Hub id or mini; default mini unless --bundle is given.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    adapters: Adapters = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Bundle to score; repeatable.", rich_help_panel=MODEL)
    ] = None,
    subject: Annotated[
        list[str] | None,
        typer.Option(help="Subject to score; repeatable; default: all.", rich_help_panel=PICTURES),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Prompts per subject; default: all.", rich_help_panel=PICTURES),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, max=10, help="Pictures per prompt.", rich_help_panel=PICTURES)
    ] = 4,
    reference_image: Annotated[
        int,
        typer.Option(
            min=0, help="Number of the reference among a subject's photographs.", rich_help_panel=PICTURES
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.", rich_help_panel=PICTURES)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Denoising steps; default: as recommended by bundle or adapters.",
            rich_help_panel=SAMPLING,
        ),
    ] = None,
    mode: Mode = "",
    guidance: Guidance = None,
    reference_guidance: ReferenceGuidance = None,
    guidance_interval: GuidanceInterval = None,
    step_cache: StepCache = 1,
    dino: Annotated[
        str,
        typer.Option(help="DINO ViT-S/16 in safetensors: folder or Hub id.", rich_help_panel=METRICS),
    ] = "facebook/dino-vits16",
    clip: Annotated[
        str,
        typer.Option(help="CLIP ViT-B/32 in safetensors: folder or Hub id.", rich_help_panel=METRICS),
    ] = "openai/clip-vit-base-patch32",
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Masks of the photographs, <subject>/<photograph>.png.",
            rich_help_panel=METRICS,
        ),
    ] = None,
    masked: Annotated[
        bool,
        typer.Option(
            "--masked/--no-masked", help="Masked scores MDINO and MCLIP-I.", rich_help_panel=METRICS
        ),
    ] = True,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Folder of pictures, scores and table; an existing one is continued.",
            rich_help_panel=OUTPUT,
        ),
    ] = Path("dreambooth-evaluation"),
    stage: Annotated[str, typer.Option(help=f"Stage: {', '.join(STAGES)}.", rich_help_panel=OUTPUT)] = "all",
    json_file: JsonFile = None,
) -> None:
    """Score DreamBooth's benchmark by DINO, CLIP-I and CLIP-T."""
    bundles = tuple(bundle or ())
    options = _options(
        bool(bundles), steps, mode, guidance, reference_guidance, guidance_interval, step_cache
    )
    if stage not in STAGES:
        raise typer.BadParameter(f"one of {', '.join(STAGES)} is expected", param_hint="'--stage'")
    names = [path.resolve().name for path in bundles]
    if len({*names, "pytorch"}) <= len(names):
        raise typer.BadParameter(
            "rows are named after the bundles' folders: give each another name, none of them pytorch",
            param_hint="'--bundle'",
        )
    from dreamcache.training.evaluation.dreambooth.command import Request, Stage, evaluate_benchmark
    from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan

    by_pytorch = base is not None or adapters is not None or not bundles
    plan = GenerationPlan(images, seed, reference_image, masks)
    evaluate_benchmark(
        Request(
            benchmark, out, bundles, (base or "mini") if by_pytorch else None, adapters, dino, clip, plan,
            tuple(subject or ()), prompts, cast(Stage, stage), masked, options, json_file,
        )
    )  # fmt: skip


def _options(
    by_bundle: bool,
    steps: int | None,
    mode: str,
    guidance: float | None,
    reference_guidance: float | None,
    guidance_interval: tuple[float, float] | None,
    step_cache: int,
) -> Options:
    """What was asked of the sampling; None is as recommended. Raises: BadParameter."""
    if mode and mode not in get_args(GuidanceMode):
        known = ", ".join(get_args(GuidanceMode))
        raise typer.BadParameter(f"one of {known} is expected", param_hint="'--mode'")
    if not by_bundle and (guidance_interval is not None or step_cache > 1):
        raise typer.BadParameter("belongs to --bundle", param_hint="'--guidance-interval' / '--step-cache'")
    return Options(
        steps=steps,
        guidance_mode=cast(GuidanceMode, mode) if mode else None,
        guidance_scale=guidance,
        reference_guidance_scale=reference_guidance,
        guidance_interval=guidance_interval,
        step_cache=step_cache,
    )
