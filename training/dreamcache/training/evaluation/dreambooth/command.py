"""`dreamcache evaluate dreambooth FOLDER`: generate, score, report; every stage continues an earlier run.

Any number of processes may draw into one folder; the last of them scores.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from dreamcache.runtime.cli.words import cell
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.progress import progress_bar
from dreamcache.runtime.settings import Options
from dreamcache.training.data.shards.distribution import claim
from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, read_benchmark
from dreamcache.training.evaluation.dreambooth.generation import (
    PICTURES,
    ROW_FILE,
    SUBJECT_FILE,
    GenerationPlan,
    generate_row,
    pictures_missing,
    read_result,
    read_row,
    row_folder,
    write_result,
)
from dreamcache.training.evaluation.dreambooth.generators import BundleGenerator, Generator, TorchGenerator
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights, find_weights
from dreamcache.training.evaluation.dreambooth.report.page import PAGE, write_page
from dreamcache.training.evaluation.dreambooth.report.report import (
    REPORT_JSON,
    REPORT_MARKDOWN,
    DreamBoothReport,
)
from dreamcache.training.evaluation.dreambooth.report.summary import summarise_real, summarise_row
from dreamcache.training.evaluation.dreambooth.scoring import Scorer, read_scores, scores_path
from dreamcache.training.evaluation.toys.painter import sampling_settings

Stage = Literal["all", "generate", "score"]


@dataclass(frozen=True)
class Request:
    """What was asked for. base: None for no row of PyTorch. options: what is None is as recommended."""

    benchmark: Path
    out: Path
    bundles: tuple[Path, ...]
    base: str | None
    adapters: Path | None
    dino: str
    clip: str
    plan: GenerationPlan
    subjects: tuple[str, ...]
    prompts: int | None
    stage: Stage
    masked: bool
    options: Options
    json_file: Path | None


def evaluate_benchmark(request: Request) -> None:
    """Do the stages that were asked for and print the table.

    Everything that can be wrong with the input is found before the first file is written.

    Raises: BenchmarkError, MetricModelError, BundleError, SettingsError, ImageError, OutputError; AdapterError and
        FileNotFoundError as the PyTorch pipeline.
    """
    plan, out = request.plan, request.out
    benchmark = read_benchmark(request.benchmark, request.subjects, request.prompts, plan.reference_image)
    if plan.masks is not None and not plan.masks.is_dir():
        raise BenchmarkError(
            f"--masks {plan.masks}: no such folder; expected <subject>/<photograph>.png in it"
        )
    weights: list[MetricWeights] = []
    if request.stage != "generate":
        weights = [find_weights("dino", request.dino), find_weights("clip", request.clip)]
    made = _generate(request, benchmark) if request.stage != "score" else []
    missing = sum(pictures_missing(out, row, benchmark, plan.images) for row in made)
    console = Console()
    if missing:
        console.print(
            f"{missing} pictures are being drawn by other processes, the last of which scores; where one has died, "
            "run the same command again",
            soft_wrap=True,
        )
    elif not weights:
        console.print(cell(f"pictures: {out / PICTURES}; run again with --stage score for the table"))
    else:
        rows, left_out = _rows(out, made, plan)
        with claim(out / PICTURES, 0) as ours:
            if ours:
                _score(request, benchmark, weights, rows, left_out)
            else:
                console.print("another process scores these pictures", soft_wrap=True)


def _score(
    request: Request,
    benchmark: Benchmark,
    weights: list[MetricWeights],
    rows: list[str],
    left_out: list[str],
) -> None:
    """Bring every row's scores up to date, write the report and print the table."""
    plan, out = request.plan, request.out
    scorer = Scorer(weights[0], weights[1], plan, request.masked)
    for row in rows:
        with progress_bar(f"{row}: scores") as advance:
            scorer.score_row(row, benchmark, out, advance)
    report = _report(benchmark, weights, rows, request)
    report.write(out)
    write_page(benchmark, rows, plan, out)
    if request.json_file is not None:
        write_result(request.json_file, report.as_record())
    console = Console()
    report.print(console)
    for note in left_out:
        console.print(f"- {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        cell(f"table: {out / REPORT_MARKDOWN}, {out / REPORT_JSON}; to look at: {out / PAGE}"), soft_wrap=True
    )


def _generate(request: Request, benchmark: Benchmark) -> list[str]:
    """Make every row's pictures; the rows' names."""
    generators = _generators(request)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{request.out} cannot be made a folder ({error.strerror}); name another"
        ) from error
    names = [generator.name for generator in generators]
    while generators:
        # dropped after its row, so that one model is in memory at a time
        generator = generators.pop(0)
        with progress_bar(f"{generator.name}: pictures") as advance:
            generate_row(generator, benchmark, request.plan, request.out, advance)
    return names


def _generators(request: Request) -> list[Generator]:
    generators: list[Generator] = []
    if request.base is not None:
        how = sampling_settings(request.adapters, request.options)
        generators.append(TorchGenerator(request.base, request.adapters, how, request.plan.images))
    generators += [BundleGenerator(path, request.options) for path in request.bundles]
    return generators


def _rows(out: Path, made: list[str], plan: GenerationPlan) -> tuple[list[str], list[str]]:
    """The rows that stand in the table, those made now first; and a note for each that cannot stand beside them.

    Raises: BenchmarkError when there is none.
    """
    found = sorted(path.parent.name for path in (out / PICTURES).glob(f"*/{ROW_FILE}"))
    rows, notes = list(made), []
    for name in found:
        if name in made:
            continue
        record = read_row(row_folder(out, name))
        if (record.get("seed"), record.get("reference_image")) == (plan.seed, plan.reference_image):
            rows.append(name)
        else:
            notes.append(
                f"{name} is left out: it was made with --seed {record.get('seed')} "
                f"--reference-image {record.get('reference_image')}"
            )
    if not rows:
        why = "; ".join(notes) if notes else f"{out / PICTURES} holds none"
        raise BenchmarkError(f"there are no pictures to score: {why}; make them with --stage generate first")
    return rows, notes


def _report(
    benchmark: Benchmark, weights: list[MetricWeights], rows: list[str], request: Request
) -> DreamBoothReport:
    out, plan = request.out, request.plan
    scores = {row: read_scores(scores_path(out, row)) for row in rows}
    if not any(scores[row]["subjects"] for row in rows):
        raise BenchmarkError(
            f"{out / PICTURES} holds no picture of these subjects and prompts; make them with --stage generate first"
        )
    # every row measures the same photographs; the fullest one knows most of them
    fullest = max(rows, key=lambda row: len(scores[row]["subjects"]))
    return DreamBoothReport(
        benchmark=benchmark,
        plan=plan,
        weights=weights,
        rows=[
            summarise_row(
                row,
                read_row(row_folder(out, row)),
                scores[row],
                None if row == rows[0] else scores[rows[0]],
                benchmark,
                plan,
            )
            for row in rows
        ],
        real=summarise_real(scores[fullest], benchmark),
        backgrounds={row: _backgrounds(row_folder(out, row), benchmark) for row in rows},
    )


def _backgrounds(folder: Path, benchmark: Benchmark) -> dict[str, int]:
    """How often each thing became of a reference's background."""
    records = [folder / subject.name / SUBJECT_FILE for subject in benchmark.subjects]
    mend = f"delete {folder} to make its pictures again"
    return dict(Counter(read_result(path, mend)["background"] for path in records if path.exists()))
