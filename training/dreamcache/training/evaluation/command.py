"""Score pictures of subjects: toys of the drawn world, or DreamBooth's benchmark."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import cast, get_args

import typer

from dreamcache.runtime.bundle.sampling import GuidanceMode
from dreamcache.runtime.cli.options import RenamedGroup
from dreamcache.runtime.settings import Options
from dreamcache.training.evaluation import options


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
    base: options.Base = "mini",
    adapters: options.Adapters = None,
    bundle: options.Bundle = None,
    identities: options.Identities = 200,
    scenes: options.Scenes = 4,
    pairs: options.Pairs = 0,
    captions: options.Captions = 0,
    condition: options.Condition = None,
    steps: options.Steps = 20,
    mode: options.Mode = "",
    guidance: options.Guidance = None,
    reference_guidance: options.ReferenceGuidance = None,
    guidance_interval: options.GuidanceInterval = None,
    step_cache: options.StepCache = 1,
    judge: options.Judge = None,
    json_file: options.JsonFile = None,
) -> None:
    """Score identity, scene and sharpness of held-out toys of the drawn world."""
    asked = _options(
        bundle is not None, steps, mode, guidance, reference_guidance, guidance_interval, step_cache
    )
    for option, count in (("--pairs", pairs), ("--captions", captions)):
        if bundle is not None and count:
            raise typer.BadParameter(
                "is drawn by PyTorch alone: leave out --bundle", param_hint=f"'{option}'"
            )
    from dreamcache.training.evaluation.toys.toys import ToyRequest, evaluate_toys

    evaluate_toys(
        ToyRequest(
            base,
            adapters,
            bundle,
            identities,
            scenes,
            pairs,
            condition or [],
            asked,
            json_file,
            judge,
            captions,
        )
    )


@evaluate.command()
def dreambooth(
    benchmark: options.Benchmark,
    base: options.PyTorchBase = None,
    adapters: options.Adapters = None,
    bundle: options.Bundles = None,
    subject: options.Subject = None,
    prompts: options.Prompts = None,
    images: options.Images = 4,
    reference_image: options.ReferenceImage = 0,
    seed: options.Seed = 0,
    steps: options.StepsOrRecommended = None,
    mode: options.Mode = "",
    guidance: options.Guidance = None,
    reference_guidance: options.ReferenceGuidance = None,
    guidance_interval: options.GuidanceInterval = None,
    step_cache: options.StepCache = 1,
    dino: options.Dino = "facebook/dino-vits16",
    clip: options.Clip = "openai/clip-vit-base-patch32",
    masks: options.Masks = None,
    masked: options.Masked = True,
    out: options.Out = Path("dreambooth-evaluation"),
    stage: options.Stage = "all",
    json_file: options.JsonFile = None,
) -> None:
    """Score DreamBooth's benchmark by DINO, CLIP-I and CLIP-T."""
    bundles = tuple(bundle or ())
    asked = _options(bool(bundles), steps, mode, guidance, reference_guidance, guidance_interval, step_cache)
    if stage not in options.STAGES:
        raise typer.BadParameter(f"one of {', '.join(options.STAGES)} is expected", param_hint="'--stage'")
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
            tuple(subject or ()), prompts, cast(Stage, stage), masked, asked, json_file,
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
