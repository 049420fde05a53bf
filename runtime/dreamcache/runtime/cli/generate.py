"""The subcommand `dreamcache generate`: new pictures of a subject as PNG files."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.cli import options
from dreamcache.runtime.cli.options import output, picture, speed
from dreamcache.runtime.errors import SettingsError

if TYPE_CHECKING:
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.settings import Settings

_BUNDLE = "default: the bundle's"
Prompt = Annotated[str | None, picture(help="Text prompt; empty = unconditional; default: of --from.")]
FromPicture = Annotated[
    Path | None,
    picture("--from", metavar="PNG", help="Picture drawn before, whose settings are the defaults."),
]
Reference = Annotated[Path | None, picture(help="Picture of the subject (PNG, JPEG, WebP, AVIF, HEIC).")]
SubjectFiles = Annotated[
    list[Path] | None,
    picture(
        "--subject",
        metavar="FILE",
        help="Subject file of `dreamcache cache`; repeatable where the bundle takes several.",
    ),
]
Steps = Annotated[int | None, picture(help=f"Denoising steps; {_BUNDLE}.")]
Seed = Annotated[int | None, picture(help="Random seed; image i uses seed + i; default: random.")]
NumImages = Annotated[int, picture(help="Number of images.")]
SchedulerName = Annotated[
    str | None,
    picture(
        "--scheduler",
        metavar="NAME",
        help="Scheduler: ddim, euler, euler_a, heun, dpmpp_2m, dpmpp_2m_sde, unipc, deis, pndm, lcm or tcd; "
        f"{_BUNDLE}.",
    ),
]
SigmaSpacingName = Annotated[
    str | None,
    picture(
        "--sigma-spacing",
        metavar="NAME",
        help=f"Noise levels: timesteps, karras, exponential or sgm_uniform; {_BUNDLE}.",
    ),
]
Strength = Annotated[
    float | None, picture(help=f"Reference strength; 0 = base model, 1 = full DreamCache; {_BUNDLE}.")
]
GuidanceScale = Annotated[float | None, picture("--guidance", help=f"Text guidance scale; {_BUNDLE}.")]
ReferenceGuidance = Annotated[float | None, picture(help=f"Reference guidance scale; {_BUNDLE}.")]
GuidanceModeName = Annotated[
    str | None,
    picture("--guidance-mode", help=f"Guidance mode: dual, text_first, classic or none; {_BUNDLE}."),
]
PromptWeights = Annotated[
    bool,
    picture("--prompt-weights", help="Weights in prompts, (word:1.3) or (word); default: read as text."),
]
NegativePrompt = Annotated[str | None, picture(help="Negative prompt.")]
MaxRam = Annotated[
    str | None,
    speed(metavar="SIZE", help="Budget of private memory, e.g. 600M; chooses --profile and --tiled-vae."),
]
TiledVae = Annotated[
    bool | None,
    speed(
        "--tiled-vae/--whole-vae",
        help="VAE decoding in strips: same picture, less memory; default: with --profile memory.",
    ),
]
PngFile = Annotated[
    Path, output("--out", help="PNG file to write; several images become NAME-0.png, NAME-1.png, …")
]

Preview = Annotated[
    Path | None,
    output("--preview", metavar="PNG", help="Preview; every-5.png is drawn anew every 5 steps."),
]
Fast = Annotated[
    int | None,
    speed(
        "--fast",
        metavar="N",
        min=1,
        help="Denoiser calls a picture at most: the best measured steps, scheduler, guidance interval and step cache.",
    ),
]
NoMetadata = Annotated[bool, output("--no-metadata", help="No prompt, seed and settings inside the PNG.")]


def generate(
    bundle: options.BundleFolder,
    *,
    prompt: Prompt = None,
    from_picture: FromPicture = None,
    reference: Reference = None,
    subject: SubjectFiles = None,
    mask: options.Mask = None,
    segmenter: options.Segmenter = None,
    max_pixels: options.MaxPixels = None,
    steps: Steps = None,
    seed: Seed = None,
    num_images: NumImages = 1,
    scheduler: SchedulerName = None,
    sigma_spacing: SigmaSpacingName = None,
    strength: Strength = None,
    guidance: GuidanceScale = None,
    reference_guidance: ReferenceGuidance = None,
    guidance_mode: GuidanceModeName = None,
    guidance_interval: options.GuidanceInterval = None,
    negative_prompt: NegativePrompt = None,
    prompt_weights: PromptWeights = False,
    profile: options.SessionProfile = "speed",
    max_ram: MaxRam = None,
    tiled_vae: TiledVae = None,
    step_cache: options.StepCache = None,
    fast: Fast = None,
    provider: options.Provider = None,
    math: options.MathOption = "exact",
    threads: options.Threads = None,
    out: PngFile,
    preview: Preview = None,
    no_metadata: NoMetadata = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw new pictures of a subject from a prompt."""
    from dreamcache.runtime.cli.drawing import claimed_places, draw_pictures
    from dreamcache.runtime.sampling.decoding import check_tiled
    from dreamcache.runtime.sampling.fast_math import check_fast_math
    from dreamcache.runtime.sessions.providers import describe_math
    from dreamcache.runtime.settings import check_prompt, resolve_settings

    _check_source(reference, subject, {"mask": mask, "segmenter": segmenter}, max_pixels)
    places = claimed_places(out, num_images, overwrite, preview, (reference, mask))
    if max_ram is not None:
        shallow = fast is not None or (step_cache is not None and step_cache > 1)
        plan = (max_ram, provider, shallow, reference is not None, tiled_vae, max(1, len(subject or ())))
        profile, tiled_vae = _plan(bundle, *plan)
    pipeline = options.open_pipeline(bundle, provider, threads, profile, math)
    if (done := describe_math(pipeline.sessions.math, platform.machine())) is not None:
        typer.echo(f"dreamcache: {done}; {check_fast_math(pipeline.sessions)}", err=True)
    if tiled_vae:
        check_tiled(pipeline.contract.graphs)
    asked: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "scheduler": scheduler,
        "sigma_spacing": sigma_spacing,
        "guidance_mode": guidance_mode,
        "guidance_scale": guidance,
        "reference_guidance_scale": reference_guidance,
        "strength": strength,
        "negative_prompt": negative_prompt,
        "guidance_interval": guidance_interval,
        "step_cache": step_cache,
        "prompt_weights": prompt_weights or None,
    }
    prompt, wanted = _with_defaults(prompt, from_picture, asked, pipeline)
    asked = wanted | _fast_settings(pipeline, fast, asked, wanted)
    settings = resolve_settings(pipeline.contract, num_images, **asked)
    check_prompt(prompt, settings)
    subjects = (
        [pipeline.load_subject(file) for file in subject or ()]
        if reference is None
        else [pipeline.cache(reference, mask, max_pixels=max_pixels, segmenter=segmenter)]
    )
    draw_pictures(pipeline, prompt, subjects, settings, asked, places, tiled_vae, not no_metadata)
    _report(pipeline, settings, places.pictures, [one.background for one in subjects], as_json)


def _report(
    pipeline: Pipeline, settings: Settings, places: Sequence[Path], backgrounds: list[str], as_json: bool
) -> None:
    seeds = [settings.seed + index for index in range(len(places))]
    result = {
        "images": [str(place) for place in places],
        "seeds": seeds,
        "steps": settings.steps,
        "scheduler": settings.scheduler,
        "math": pipeline.sessions.math,
        "background": backgrounds[0],
    }
    lines = [f"{place}: seed {seed}" for place, seed in zip(places, seeds, strict=True)]
    options.print_result(result, "\n".join([*lines, *backgrounds]), as_json)


def _with_defaults(
    prompt: str | None, picture_before: Path | None, asked: dict[str, Any], pipeline: Pipeline
) -> tuple[str, dict[str, Any]]:
    """The prompt and the settings; what was not given is of the picture named by --from."""
    from dreamcache.runtime.cli.picture_text import read_drawn_with

    if picture_before is None:
        if prompt is None:
            raise typer.BadParameter("a prompt is expected, or --from", param_hint="'--prompt'")
        return prompt, asked
    before = read_drawn_with(picture_before)
    if before.bundle != pipeline.contract.fingerprints.subject():
        warnings.warn(
            f"{picture_before} was drawn with another bundle; the picture will differ", stacklevel=1
        )
    if before.math != pipeline.sessions.math:
        warnings.warn(
            f"{picture_before} was drawn with math {before.math}; --math {before.math} repeats it",
            stacklevel=1,
        )
    given = {name: value for name, value in asked.items() if value is not None}
    return before.prompt if prompt is None else prompt, before.options() | given


def _fast_settings(
    pipeline: Pipeline, calls: int | None, given: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of --fast, said on stderr; none without it.

    given: on the command line. wanted: with the defaults of --from.
    Raises: SettingsError where one that --fast chooses was given.
    """
    from dreamcache.runtime.budgets.calls import CHOSEN, settings_within

    if calls is None:
        return {}
    for name in CHOSEN:
        if given[name] is not None:
            raise SettingsError(f"--fast chooses --{name.replace('_', '-')} itself; leave one of the two out")
    further = {name: value for name, value in wanted.items() if value is not None and name != "seed"}
    chosen, line = settings_within(pipeline.contract, calls, further)
    typer.echo(f"dreamcache: {line}", err=True)
    return chosen


def _check_source(
    reference: Path | None,
    subject: Sequence[Path] | None,
    of_the_reference: Mapping[str, object],
    max_pixels: int | None,
) -> None:
    if (reference is None) == (not subject):
        raise typer.BadParameter(
            "exactly one is expected (for the base model alone, add --strength 0)",
            param_hint="'--reference' / '--subject'",
        )
    for name, value in of_the_reference.items():
        if value is not None and reference is None:
            raise typer.BadParameter(f"a {name} belongs to a --reference", param_hint=f"'--{name}'")
    if max_pixels is not None and reference is None:
        warnings.warn("--max-pixels has no effect without --reference", stacklevel=1)


def _plan(
    bundle: Path,
    budget: str,
    providers: list[str] | None,
    shallow: bool,
    caches: bool,
    tiled: bool | None,
    references: int,
) -> tuple[str, bool]:
    """Profile and tiling that fit the budget, reported on stderr."""
    from dreamcache.runtime.budgets.plan import parse_bytes, plan_memory
    from dreamcache.runtime.bundle.folder import open_contract

    if providers and any(provider.lower() not in ("cpu", "cpuexecutionprovider") for provider in providers):
        raise SettingsError(
            "--max-ram: memory is known for the CPU provider only; leave --provider or --max-ram out"
        )
    plan = plan_memory(
        open_contract(bundle).contract,
        parse_bytes(budget, "--max-ram"),
        shallow=shallow,
        caches=caches,
        tiled=tiled,
        references=references,
    )
    typer.echo(f"dreamcache: {plan.summary()}", err=True)
    return plan.profile, plan.tiled
