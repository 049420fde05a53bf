"""The subcommand `dreamcache evaluate`: on the toys of the drawn world, or on DreamBooth's benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STAGES = ("all", "generate", "score")
MODES = ("dual", "text_first", "classic", "none")
# The options that have a meaning with or without --benchmark alone.
OF_THE_TOYS = ("identities", "scenes", "condition", "pairs")
OF_THE_BENCHMARK = (
    "out", "dino", "clip", "reference_image", "images", "subject", "prompts", "seed", "masks", "masked", "stage",
)  # fmt: skip
TOY_STEPS = 20


def evaluate(
    context: typer.Context,
    base: Annotated[
        str, typer.Option(help="A diffusers folder or Hub id, or mini (the shipped miniature).")
    ] = "mini",
    adapters: Annotated[Path | None, typer.Option(help="Adapters trained on the base.")] = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="Evaluate this exported bundle instead of PyTorch; with --benchmark repeatable."),
    ] = None,
    identities: Annotated[int, typer.Option(min=1, help="Held-out toys.")] = 200,
    scenes: Annotated[int, typer.Option(min=1, max=12, help="Scenes for each toy.")] = 4,
    pairs: Annotated[
        int, typer.Option(min=0, help="Also so many pictures of two held-out toys each, from PyTorch.")
    ] = 0,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"Denoising steps; {TOY_STEPS}, or with --benchmark as bundle or adapters recommend."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="dual, text_first, classic or none; as the adapters recommend by default.")
    ] = "",
    guidance: Annotated[float | None, typer.Option(help="Scale of the text guidance.")] = None,
    reference_guidance: Annotated[float | None, typer.Option(help="Scale of the reference guidance.")] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(help="For a bundle: guide between these fractions of the steps."),
    ] = None,
    step_cache: Annotated[
        int, typer.Option(min=1, help="For a bundle: run the denoiser in full every so many steps.")
    ] = 1,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="text_only, dreamcache or wrong_cache; repeatable; all by default."),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the results to this file.")
    ] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Evaluate on DreamBooth's benchmark, in its own layout."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Benchmark: pictures, scores and table; continued if there."),
    ] = Path("dreambooth-evaluation"),
    dino: Annotated[
        str, typer.Option(help="Benchmark: folder or Hub id of DINO ViT-S/16 in safetensors.")
    ] = "facebook/dino-vits16",
    clip: Annotated[
        str, typer.Option(help="Benchmark: folder or Hub id of CLIP ViT-B/32 in safetensors.")
    ] = "openai/clip-vit-base-patch32",
    reference_image: Annotated[
        int, typer.Option(min=0, help="Benchmark: which photograph of a subject is the reference, from 0.")
    ] = 0,
    images: Annotated[int, typer.Option(min=1, max=10, help="Benchmark: pictures for each prompt.")] = 4,
    subject: Annotated[
        list[str] | None, typer.Option(help="Benchmark: only this subject; repeatable.")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Benchmark: only the first so many prompts.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Benchmark: other pictures for another number.")] = 0,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Benchmark: masks of photographs, <subject>/<photograph>.png."),
    ] = None,
    masked: Annotated[
        bool, typer.Option("--masked/--no-masked", help="Benchmark: also MDINO and MCLIP-I.")
    ] = True,
    stage: Annotated[str, typer.Option(help="Benchmark: generate, score, or all.")] = "all",
) -> None:
    """Measure pictures of subjects: toys of the drawn world, or DreamBooth's benchmark."""

    def is_given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    foreign = OF_THE_TOYS if benchmark is not None else OF_THE_BENCHMARK
    for name in foreign:
        if is_given(name):
            raise typer.BadParameter(
                "does not go with --benchmark" if benchmark is not None else "belongs to --benchmark",
                param_hint=f"'--{name.replace('_', '-')}'",
            )
    if mode and mode not in MODES:
        raise typer.BadParameter(f"one of {', '.join(MODES)} is expected", param_hint="'--mode'")
    if not bundle and (guidance_interval is not None or step_cache > 1):
        raise typer.BadParameter("belongs to --bundle", param_hint="'--guidance-interval' / '--step-cache'")
    if benchmark is None:
        if bundle and len(bundle) > 1:
            raise typer.BadParameter("give one, or several with --benchmark", param_hint="'--bundle'")
        if bundle and pairs:
            raise typer.BadParameter("is of PyTorch: leave out --bundle", param_hint="'--pairs'")
        from dreamcache.training.evaluation.toys.toys import evaluate_toys

        evaluate_toys(
            base=base,
            adapters=adapters,
            bundle=bundle[0] if bundle else None,
            identities=identities,
            scenes=scenes,
            pairs=pairs,
            steps=TOY_STEPS if steps is None else steps,
            mode=mode,
            guidance=guidance,
            reference_guidance=reference_guidance,
            guidance_interval=guidance_interval,
            step_cache=step_cache,
            condition=condition,
            out=json_file,
        )
        return
    if stage not in STAGES:
        raise typer.BadParameter(f"one of {', '.join(STAGES)} is expected", param_hint="'--stage'")
    names = [path.resolve().name for path in bundle or ()]
    if len({*names, "pytorch"}) <= len(names):
        raise typer.BadParameter(
            "rows are named after the bundles' folders: give each another name, none of them pytorch",
            param_hint="'--bundle'",
        )
    from dreamcache.runtime.settings import Options
    from dreamcache.training.evaluation.dreambooth.command import Request, evaluate_benchmark
    from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan

    of_pytorch = is_given("base") or is_given("adapters") or not bundle
    options = Options(
        steps=steps,
        guidance_mode=mode or None,  # type: ignore[typeddict-item]  # one of MODES
        guidance_scale=guidance,
        reference_guidance_scale=reference_guidance,
        guidance_interval=guidance_interval,
        step_cache=step_cache,
    )
    evaluate_benchmark(
        Request(
            benchmark=benchmark,
            out=out,
            bundles=tuple(bundle or ()),
            base=base if of_pytorch else None,
            adapters=adapters,
            dino=dino,
            clip=clip,
            plan=GenerationPlan(images, seed, reference_image, masks),
            subjects=tuple(subject or ()),
            prompts=prompts,
            stage=stage,  # type: ignore[arg-type]  # one of STAGES
            masked=masked,
            options=options,
            json_file=json_file,
        )
    )
