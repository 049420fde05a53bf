"""Write training data as WebDataset shards: captions, targets, references, or samples of the drawn world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dreamcache.runtime.cli.words import shown

if TYPE_CHECKING:
    from dreamcache.training.data.stages.stage import Stage

synthesize = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

FILTER, RUN = "Filter", "Execution"

Out = Annotated[Path, typer.Argument(help="Folder of the shards; an existing folder is continued.")]
Samples = Annotated[int, typer.Option(min=1, help="Number of samples.")]
ShardSize = Annotated[
    int,
    typer.Option(min=1, help="Samples per shard; a killed process loses at most one.", rich_help_panel=RUN),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all samples.", rich_help_panel=RUN)]
Batch = Annotated[int, typer.Option(min=1, help="Samples per model call.", rich_help_panel=RUN)]
Device = Annotated[str, typer.Option(help="Device: auto, cpu or cuda:N.", rich_help_panel=RUN)]
Dtype = Annotated[
    str,
    typer.Option(
        help="Number format: auto (float32 on CPUs, else bfloat16), float32, float16 or bfloat16.",
        rich_help_panel=RUN,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Outcome as JSON.", rich_help_panel=RUN)]
Ray = Annotated[
    bool, typer.Option("--ray", help="Execution by Ray Data instead of this process.", rich_help_panel=RUN)
]
Workers = Annotated[
    int, typer.Option(min=1, help="Ray actors, each with its own models.", rich_help_panel=RUN)
]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs per Ray actor.", rich_help_panel=RUN)]


@synthesize.command()
def captions(
    out: Out,
    samples: Samples,
    model: Annotated[
        str, typer.Option(help="Causal language model: folder or Hub id; default Llama 3.2.")
    ] = "",
    subjects: Annotated[Path | None, typer.Option(help="Text file of subjects, one per line.")] = None,
    places: Annotated[Path | None, typer.Option(help="Text file of places, one per line.")] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt with {subject} and optionally {place}: text or file.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of probability to sample from.")
    ] = 0.95,
    max_words: Annotated[int, typer.Option(min=3, help="Longest caption in words.")] = 30,
    tries: Annotated[int, typer.Option(min=1, help="Attempts per caption.")] = 4,
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
    captions: Annotated[Path, typer.Argument(help="Folder of the captions.")],
    out: Out,
    model: Annotated[
        str, typer.Option(help="Diffusers pipeline: folder or Hub id; default Stable Diffusion 1.5.")
    ] = "",
    resolution: Annotated[int, typer.Option(min=8, help="Side of the pictures in pixels.")] = 512,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 30,
    guidance: Annotated[float, typer.Option(help="Text guidance scale.")] = 7.5,
    negative_prompt: Annotated[str | None, typer.Option(help="Negative prompt.")] = None,
    form: Annotated[str, typer.Option("--format", help="File format: jpg (quality 95) or png.")] = "jpg",
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
    targets: Annotated[Path, typer.Argument(help="Folder of the targets.")],
    out: Out,
    detector: Annotated[str, typer.Option(help="Grounding DINO: folder or Hub id.")] = "",
    sam: Annotated[str, typer.Option(help="SAM: folder or Hub id.")] = "",
    box_threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score of a box.")] = 0.3,
    salient: Annotated[
        Path | None, typer.Option(help="Salient-object model (ONNX) instead of detector and SAM.")
    ] = None,
    min_area: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest share of the picture.", rich_help_panel=FILTER)
    ] = 0.04,
    max_area: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of the picture.", rich_help_panel=FILTER)
    ] = 0.7,
    max_border: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of the picture's edge.", rich_help_panel=FILTER)
    ] = 0.03,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Lowest confidence of the mask; default 0.35, or 0.75 with --salient.",
            rich_help_panel=FILTER,
        ),
    ] = None,
    max_objects: Annotated[
        int, typer.Option(min=1, help="Most objects of the subject's kind.", rich_help_panel=FILTER)
    ] = 1,
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
def check(folder: Annotated[Path, typer.Argument(help="Folder of shards.")], as_json: AsJson = False) -> None:
    """Check a folder: decode every sample and compare every hash."""
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
    typer.echo(json.dumps(record) if as_json else shown(line))
