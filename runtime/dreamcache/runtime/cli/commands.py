"""The runner's own subcommands: cache, generate, inspect and verify.

Results go to stdout (as JSON with `--json`), everything else to stderr.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.errors import OutputError, SettingsError
from dreamcache.runtime.progress import progress_bar

if TYPE_CHECKING:
    from PIL import Image

    from dreamcache.runtime.checks import Check
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.subject import Subject

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder made by `dreamcache export`.")]
Reference = Annotated[Path | None, typer.Option(help="Picture of the subject: PNG, JPEG or WebP.")]
Mask = Annotated[Path | None, typer.Option(help="White where the subject is, as large as the picture.")]
Providers = Annotated[
    list[str] | None, typer.Option("--provider", help="ONNX Runtime provider, e.g. cpu, cuda; repeatable.")
]
Threads = Annotated[int | None, typer.Option(help="Threads within an operator.")]
ProfileOption = Annotated[
    str, typer.Option("--profile", help="speed, or memory: slower, with the weights left on disk.")
]
MathOption = Annotated[
    str, typer.Option("--math", help="exact, or fast: bf16 in provider openvino, where the CPU has it.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def cache(
    bundle: BundleArgument,
    reference: Annotated[Path, typer.Option(help="Picture of the subject: PNG, JPEG or WebP.")],
    out: Annotated[Path, typer.Option(help="Subject file to write: *.subject.safetensors.")],
    mask: Mask = None,
    profile: ProfileOption = "speed",
    provider: Providers = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Cache one reference picture as a subject file, for any number of prompts."""
    from dreamcache.runtime.files import check_output
    from dreamcache.runtime.subject import SUFFIX

    if not out.name.endswith(SUFFIX):
        raise OutputError(f"--out: a name that ends in {SUFFIX} is expected, received {out.name}")
    check_output(out, overwrite)
    subject = _load(bundle, provider, threads, profile).cache(reference, mask)
    subject.save(out, overwrite)
    _say(
        {"subject": str(out), "background": subject.background, "bytes": out.stat().st_size},
        f"{out}: {subject.background}",
        as_json,
    )


def generate(
    bundle: BundleArgument,
    prompt: Annotated[str, typer.Option(help="What to draw; the empty prompt is unconditional.")],
    out: Annotated[Path, typer.Option(help="PNG to write; several pictures become NAME-0.png, NAME-1.png …")],
    reference: Reference = None,
    subject: Annotated[
        list[Path] | None,
        typer.Option(
            help="Subject file made by `dreamcache cache`; repeatable where the bundle takes several at once."
        ),
    ] = None,
    mask: Mask = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; random by default.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="ddim, euler, dpm or lcm.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale of the text guidance.")] = None,
    reference_guidance: Annotated[float | None, typer.Option(help="Scale of the reference guidance.")] = None,
    guidance_mode: Annotated[str | None, typer.Option(help="dual, text_first, classic or none.")] = None,
    strength: Annotated[
        float | None, typer.Option(help="Of the reference: 0 is the stock model, 1 DreamCache.")
    ] = None,
    negative_prompt: Annotated[str, typer.Option(help="Stands where the null text is otherwise.")] = "",
    num_images: Annotated[int, typer.Option(help="Pictures; picture i has seed + i.")] = 1,
    tiled_vae: Annotated[
        bool | None,
        typer.Option(
            "--tiled-vae/--whole-vae",
            help="Decode in strips: the same picture in less memory; by default in the memory profile.",
        ),
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None,
        typer.Option(
            help="Guide between these fractions of the steps alone, e.g. 0.2 0.8.", metavar="START END"
        ),
    ] = None,
    step_cache: Annotated[
        int | None,
        typer.Option(
            help="Run the whole denoiser at every so many steps, the shallow graph between.", metavar="K"
        ),
    ] = None,
    profile: ProfileOption = "speed",
    max_ram: Annotated[
        str | None,
        typer.Option(
            help="Choose what fits into so much private memory, e.g. 600M; or say that nothing does."
        ),
    ] = None,
    provider: Providers = None,
    math: MathOption = "exact",
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Draw new pictures of a subject from a prompt."""
    from dreamcache.runtime.sampling.decoding import check_tiled
    from dreamcache.runtime.sessions.providers import describe_math
    from dreamcache.runtime.settings import resolve_settings

    if (reference is None) == (not subject):
        raise typer.BadParameter(
            "exactly one is expected (for the stock model, add --strength 0)",
            param_hint="'--reference' / '--subject'",
        )
    if mask is not None and reference is None:
        raise typer.BadParameter("a mask belongs to a --reference", param_hint="'--mask'")
    places = _places(out, num_images, overwrite)
    if max_ram is not None:
        profile, tiled_vae = _plan(
            bundle,
            max_ram,
            provider,
            step_cache,
            reference is not None,
            tiled_vae,
            max(1, len(subject or ())),
        )
    pipeline = _load(bundle, provider, threads, profile, math)
    if (done := describe_math(pipeline.sessions.math)) is not None:
        typer.echo(f"dreamcache: {done}", err=True)
    if tiled_vae:
        check_tiled(pipeline.contract.graphs)
    options: dict[str, Any] = {
        "steps": steps,
        "seed": seed,
        "scheduler": scheduler,
        "guidance_mode": guidance_mode,
        "guidance_scale": guidance,
        "reference_guidance_scale": reference_guidance,
        "strength": strength,
        "negative_prompt": negative_prompt,
        "guidance_interval": guidance_interval,
        "step_cache": step_cache,
    }
    settings = resolve_settings(pipeline.contract, num_images, **options)
    chosen = _subjects(pipeline, reference, mask, subject or ())
    images = _draw(
        pipeline, prompt, chosen, settings.num_images, {**options, "seed": settings.seed}, tiled_vae
    )
    for place, image in zip(places, images, strict=True):
        _write_png(image, place, overwrite)
    names = [str(place) for place in places]
    seeds = [settings.seed + index for index in range(len(names))]
    result = {
        "images": names,
        "seeds": seeds,
        "steps": settings.steps,
        "scheduler": settings.scheduler,
        "math": pipeline.sessions.math,
        "background": chosen[0].background,
    }
    lines = [f"{name}: seed {seed}" for name, seed in zip(names, seeds, strict=True)]
    _say(result, "\n".join([*lines, *(one.background for one in chosen)]), as_json)


def inspect(bundle: BundleArgument, as_json: AsJson = False) -> None:
    """Show what a bundle holds, from its contract alone."""
    from rich.console import Console

    from dreamcache.runtime.bundle.folder import open_contract
    from dreamcache.runtime.cli.description import describe

    opened = open_contract(bundle)
    if as_json:
        typer.echo(
            json.dumps(opened.contract.model_dump(mode="json", by_alias=True), indent=2, ensure_ascii=False)
        )
        return
    for table in describe(opened):
        Console().print(table)


def verify(
    bundle: BundleArgument,
    provider: Providers = None,
    threads: Threads = None,
    coreml: Annotated[
        bool,
        typer.Option("--coreml", help="Run the Core ML packages too: in PyTorch, and on macOS in Core ML."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle: files, weights, graphs, and that text and reference count. Status 1 when one fails."""
    from rich.console import Console
    from rich.table import Table

    from dreamcache.runtime.checks import verify_bundle

    with progress_bar("verifying") as advance:
        results = list(verify_bundle(bundle, provider, threads, advance))
    if coreml and all(check.passed for check in results):
        results += _verify_coreml(bundle)
    passed = all(check.passed for check in results)
    if as_json:
        typer.echo(json.dumps({"passed": passed, "checks": [check.as_json() for check in results]}, indent=2))
    else:
        table = Table("check", "", "found")
        for check in results:
            table.add_row(check.name, "ok" if check.passed else "FAILED", check.detail)
        Console().print(table)
    if not passed:
        failed = next(check for check in results if not check.passed)
        typer.echo(f"dreamcache: {failed.name}: {failed.detail}", err=True)
        raise typer.Exit(1)


def _verify_coreml(path: Path) -> list[Check]:
    """What the exporter, which reads packages, finds; the runner itself does not know it."""
    from importlib.metadata import entry_points

    from dreamcache.runtime.bundle.folder import open_contract

    # coremltools warns of every PyTorch newer than itself, and of what only macOS has.
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    (entry,) = entry_points(group="dreamcache.verifiers", name="coreml")
    try:
        verifier = entry.load()
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--coreml needs {error.name}; install it with: pip install 'dreamcache[coreml]'"
        ) from error
    return list(verifier(open_contract(path), lambda line: typer.echo(line, err=True)))


def _plan(
    bundle: Path,
    budget: str,
    providers: list[str] | None,
    step_cache: int | None,
    caches: bool,
    tiled: bool | None,
    references: int,
) -> tuple[str, bool]:
    """Profile and tiling that fit the budget, said on stderr."""
    from dreamcache.runtime.bundle.folder import open_contract
    from dreamcache.runtime.memory.plan import parse_bytes, plan_memory

    if providers and any(provider.lower() not in ("cpu", "cpuexecutionprovider") for provider in providers):
        raise SettingsError("--max-ram: what the CPU needs is known; leave --provider or --max-ram out")
    plan = plan_memory(
        open_contract(bundle).contract,
        parse_bytes(budget, "--max-ram"),
        shallow=step_cache is not None and step_cache > 1,
        caches=caches,
        tiled=tiled,
        references=references,
    )
    typer.echo(f"dreamcache: {plan.summary()}", err=True)
    return plan.profile, plan.tiled


def _load(
    bundle: Path,
    providers: list[str] | None,
    threads: int | None,
    profile: str = "speed",
    math: str = "exact",
) -> Pipeline:
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.sessions.profiles import check_profile
    from dreamcache.runtime.sessions.providers import check_math, choose_providers

    # An option that was not given arrives as an empty list.
    chosen = choose_providers(providers or None)
    kind, precise = check_profile(profile), check_math(math, chosen)
    with progress_bar("checking the bundle") as advance:
        return Pipeline.load(
            bundle, providers=chosen, threads=threads, profile=kind, math=precise, progress=advance
        )


def _subjects(
    pipeline: Pipeline, reference: Path | None, mask: Path | None, files: Sequence[Path]
) -> list[Subject]:
    """Of a reference, or of subject files."""
    if reference is not None:
        return [pipeline.cache(reference, mask)]
    return [pipeline.load_subject(file) for file in files]


def _draw(
    pipeline: Pipeline,
    prompt: str,
    subjects: list[Subject],
    num_images: int,
    options: dict[str, Any],
    tiled: bool | None,
) -> list[Image.Image]:
    with progress_bar("drawing") as advance:
        final = None
        for step in pipeline.denoise(prompt, subjects, num_images=num_images, **options):
            final = step.latent
            advance(step.index + 1, step.total)
    assert final is not None
    return pipeline.decode(final, tiled)


def _places(out: Path, count: int, overwrite: bool) -> list[Path]:
    """Where each picture goes, refused before anything is drawn."""
    from dreamcache.runtime.files import check_output

    if out.suffix.lower() != ".png":
        raise OutputError(f"--out: a name that ends in .png is expected, received {out.name}")
    places = [out] if count == 1 else [out.with_stem(f"{out.stem}-{index}") for index in range(count)]
    return [check_output(place, overwrite) for place in places]


def _write_png(image: Image.Image, place: Path, overwrite: bool) -> None:
    from dreamcache.runtime.files import replacing

    with replacing(place, overwrite) as beside:
        image.save(beside, "PNG")


def _say(result: dict[str, Any], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(result, indent=2, ensure_ascii=False) if as_json else text)
