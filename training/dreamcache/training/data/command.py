"""Write training data as WebDataset shards: captions, targets, references, or samples of the drawn world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dreamcache.training.data.stages.stage import Stage

synthesize = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help=__doc__)

Out = Annotated[Path, typer.Argument(help="Folder for the shards; one that is there is continued.")]
Samples = Annotated[int, typer.Option(min=1, help="Samples to ask for.")]
ShardSize = Annotated[
    int, typer.Option(min=1, help="Samples a shard; a killed process loses at most one shard.")
]
Seed = Annotated[int, typer.Option(help="Seed that every sample's own is derived from.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples that go through the model together.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N.")]
Dtype = Annotated[
    str, typer.Option(help="auto (float32 on a CPU, else bfloat16), float32, float16 or bfloat16.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")]
Ray = Annotated[bool, typer.Option("--ray", help="Run through Ray Data instead of this process alone.")]
Workers = Annotated[int, typer.Option(min=1, help="With --ray: actors, each with its own models.")]
Gpus = Annotated[float, typer.Option(min=0, help="With --ray: GPUs an actor takes.")]


@synthesize.command()
def captions(
    out: Out,
    samples: Samples,
    model: Annotated[
        str, typer.Option(help="Folder or Hub id of a causal language model; Llama 3.2 by default.")
    ] = "",
    subjects: Annotated[Path | None, typer.Option(help="Text file of subjects, one a line.")] = None,
    places: Annotated[Path | None, typer.Option(help="Text file of places, one a line.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt with {subject} and perhaps {place}: text, or a file of it.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Of the sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Share of probability that is kept.")] = 0.95,
    max_words: Annotated[int, typer.Option(min=3, help="Longest caption.")] = 30,
    tries: Annotated[int, typer.Option(min=1, help="How often a caption that will not do is asked for.")] = 4,
    seed: Seed = 0,
    shard_size: ShardSize = 500,
    batch: Batch = 32,
    device: Device = "auto",
    dtype: Dtype = "auto",
    ray: Ray = False,
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    as_json: AsJson = False,
) -> None:
    """Stage 1: captions by a language model, each of which names its subject."""
    from dreamcache.training.data.models.language_model import TokenSampling
    from dreamcache.training.data.models.weights import LANGUAGE_MODEL
    from dreamcache.training.data.stages.captions import CaptionStage
    from dreamcache.training.data.stages.prompts import PLACES, SUBJECTS, read_lines, read_template

    _quiet()
    stage = CaptionStage(
        samples_wanted=samples,
        model=model or LANGUAGE_MODEL.default,
        subjects=read_lines(subjects, SUBJECTS, "--subjects"),
        places=read_lines(places, PLACES, "--places"),
        template=read_template(template),
        sampling=TokenSampling(temperature, top_p),
        max_words=max_words,
        tries=tries,
        seed=seed,
        shard_size=shard_size,
        batch=batch,
        device=device,
        dtype=dtype,
    )
    _run(stage, out, ray, workers, gpus_per_worker, as_json)


@synthesize.command()
def targets(
    captions: Annotated[Path, typer.Argument(help="Folder that stage 1 wrote.")],
    out: Out,
    model: Annotated[
        str, typer.Option(help="Folder or Hub id of a diffusers pipeline; Stable Diffusion 1.5 by default.")
    ] = "",
    resolution: Annotated[int, typer.Option(min=8, help="Side of the pictures in pixels.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 30,
    guidance: Annotated[float, typer.Option(help="Scale of the text guidance.")] = 7.5,
    negative_prompt: Annotated[str | None, typer.Option(help="What pictures should not show.")] = None,
    form: Annotated[str, typer.Option("--format", help="jpg (quality 95) or png.")] = "jpg",
    seed: Seed = 0,
    batch: Batch = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    ray: Ray = False,
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    as_json: AsJson = False,
) -> None:
    """Stage 2: a picture for each caption by a text-to-image pipeline."""
    if form not in ("jpg", "png"):
        raise typer.BadParameter(f"{form!r} is not one of jpg, png", param_hint="'--format'")
    from dreamcache.training.data.models.weights import PIPELINE
    from dreamcache.training.data.stages.targets import TargetStage

    _quiet()
    stage = TargetStage(
        captions=captions.absolute(),
        model=model or PIPELINE.default,
        resolution=resolution,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        form="png" if form == "png" else "jpg",
        seed=seed,
        batch=batch,
        device=device,
        dtype=dtype,
    )
    _run(stage, out, ray, workers, gpus_per_worker, as_json)


@synthesize.command()
def references(
    targets: Annotated[Path, typer.Argument(help="Folder that stage 2 wrote.")],
    out: Out,
    detector: Annotated[str, typer.Option(help="Folder or Hub id of a Grounding DINO.")] = "",
    sam: Annotated[str, typer.Option(help="Folder or Hub id of a SAM.")] = "",
    box_threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of a found box.")] = 0.3,
    salient: Annotated[
        Path | None, typer.Option(help="A salient-object ONNX model, instead of detector and SAM.")
    ] = None,
    min_area: Annotated[float, typer.Option(min=0, max=1, help="Smallest share of the picture.")] = 0.04,
    max_area: Annotated[float, typer.Option(min=0, max=1, help="Largest share of the picture.")] = 0.7,
    max_border: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the picture's edge that may be touched.")
    ] = 0.03,
    min_confidence: Annotated[
        float | None, typer.Option(min=0, max=1, help="Of the mask; 0.35, or 0.75 with --salient.")
    ] = None,
    max_objects: Annotated[int, typer.Option(min=1, help="Objects of the subject's kind in a picture.")] = 1,
    batch: Batch = 8,
    device: Device = "auto",
    ray: Ray = False,
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    as_json: AsJson = False,
) -> None:
    """Stage 3: the subject's mask, and the reference cut out with it, on white."""
    if salient is not None and (detector or sam):
        raise typer.BadParameter("stands instead of --detector and --sam", param_hint="'--salient'")
    from dreamcache.training.data.models.grounded import GroundedSegmenter
    from dreamcache.training.data.models.salient import SalientSegmenter
    from dreamcache.training.data.models.segmentation import Limits
    from dreamcache.training.data.models.weights import DETECTOR, SEGMENTER
    from dreamcache.training.data.stages.references import ReferenceStage

    _quiet()
    # Saliency inside a mask is above 0.5 whatever the model saw, so its bar stands higher.
    usual = 0.35 if salient is None else 0.75
    limits = Limits(
        min_area, max_area, max_border, usual if min_confidence is None else min_confidence, max_objects
    )
    segmenter = (
        GroundedSegmenter(detector or DETECTOR.default, sam or SEGMENTER.default, box_threshold, device)
        if salient is None
        else SalientSegmenter(salient.absolute())
    )
    _run(
        ReferenceStage(targets.absolute(), segmenter, limits, batch),
        out,
        ray,
        workers,
        gpus_per_worker,
        as_json,
    )


@synthesize.command()
def world(
    out: Out,
    samples: Samples,
    seed: Seed = 0,
    shard_size: ShardSize = 500,
    ray: Ray = False,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """The same shards from the drawn world, 64 x 64 px, without any model."""
    from dreamcache.training.data.stages.world import WorldStage

    _run(WorldStage(samples, seed, shard_size), out, ray, workers, 0, as_json)


@synthesize.command()
def check(
    folder: Annotated[Path, typer.Argument(help="Folder of any stage.")], as_json: AsJson = False
) -> None:
    """Read and decode every sample of a folder, and compare every hash."""
    from dreamcache.training.data.shards.triplets import check_folder

    found = check_folder(folder)
    _print(
        found,
        f"{folder}: {found['stage']}, {found['shards']} shards, {found['samples']} samples, all whole",
        as_json,
    )


def _quiet() -> None:
    """No bars and warnings of the libraries between our own bar and the one line of an error."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _run(stage: Stage, out: Path, ray: bool, workers: int, gpus_per_worker: float, as_json: bool) -> None:
    from dreamcache.training.data.shards.distribution import ProcessRank
    from dreamcache.training.data.stages.stage import run_stage

    process = ProcessRank() if ray else ProcessRank.from_environment()
    if ray:
        from dreamcache.training.data.stages.ray_data import run_with_ray

        summary = run_with_ray(stage, out, workers, gpus_per_worker)
    else:
        summary = run_stage(stage, out, process)
    rejected = "; ".join(f"{name}: {count}" for name, count in summary.rejected.items())
    line = (
        f"{out}: {summary.made} shards made, {summary.kept} kept"
        + (f", {summary.busy} left to another process" if summary.busy else "")
        + f"; {summary.samples} samples"
        + (f"; left out: {rejected}" if rejected else "")
    )
    who = {"process": process.index, "processes": process.count}
    _print({"folder": str(out), "stage": stage.index.stage, **who, **summary.as_dict()}, line, as_json)


def _print(record: dict[str, Any], line: str, as_json: bool) -> None:
    typer.echo(json.dumps(record) if as_json else line)
