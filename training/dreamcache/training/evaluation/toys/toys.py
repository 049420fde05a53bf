"""`dreamcache evaluate toys`: identity and scene accuracy on held-out toys of the drawn world."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dreamcache.runtime.files import claim_file, write_json
from dreamcache.runtime.settings import Options

if TYPE_CHECKING:
    from rich.table import Table

    from dreamcache.training.evaluation.toys.benchmark import Condition
    from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter
    from dreamcache.training.evaluation.toys.captions import CaptionScores
    from dreamcache.training.evaluation.toys.painter import TorchPainter
    from dreamcache.training.evaluation.toys.pairs import PairCondition, PairScores
    from dreamcache.training.evaluation.toys.scores import Scores


@dataclass(frozen=True)
class ToyRequest:
    """What was asked for. conditions: all where empty. options: None is as the adapters recommend; steps is given."""

    base: str
    adapters: Path | None
    bundle: Path | None
    identities: int
    scenes: int
    pairs: int
    conditions: list[str]
    options: Options
    json_file: Path | None
    judge: Path | None = None
    captions: int = 0


def evaluate_toys(request: ToyRequest) -> None:
    """Scores of held-out toys, printed and, where asked for, written.

    Raises: BadParameter for an unknown condition; BenchmarkError for a judge of pictures of another size, and for
    references in scenes asked of a model without a segmenter.
    """
    from rich.console import Console

    from dreamcache.training.evaluation.toys.attribute_classifier import (
        CLASSIFIER_FILE,
        load_classifier,
        stated_accuracy,
    )
    from dreamcache.training.evaluation.toys.benchmark import CONDITIONS, as_record, draw_cases, run_benchmark
    from dreamcache.training.evaluation.toys.captions import run_captions
    from dreamcache.training.evaluation.toys.painter import TorchPainter
    from dreamcache.training.evaluation.toys.pairs import run_pairs

    if set(request.conditions) - set(CONDITIONS):
        raise typer.BadParameter(f"one of {', '.join(CONDITIONS)} is expected", param_hint="'--condition'")
    if request.json_file is not None:
        request.json_file.parent.mkdir(parents=True, exist_ok=True)
        claim_file(request.json_file, overwrite=True)
    judge = request.judge or CLASSIFIER_FILE
    painter, settings = _torch_painter(request) if request.bundle is None else _bundle_painter(request)
    wanted = _conditions(request, painter.segments)
    classifier = load_classifier(judge).of_size(painter.size)
    cases = draw_cases(request.identities, request.scenes, size=classifier.size)
    results = run_benchmark(cases, painter, classifier, wanted)
    record = {
        "identities": request.identities,
        "scenes_per_identity": request.scenes,
        "settings": settings,
        "judge_accuracy_on_held_out_renders": stated_accuracy(judge),
        "results": as_record(results),
    }
    _write(record, request.json_file)  # pairs take as long again
    tables = [_table(results)]
    if request.pairs and isinstance(painter, TorchPainter):
        of_two = run_pairs(painter.pipeline, request.pairs, classifier, painter.how)
        shares = {condition: asdict(scores) for condition, scores in of_two.items()}
        record["pairs"] = {"pictures": request.pairs, "results": shares}
        tables.append(_table_of_two(of_two))
        _write(record, request.json_file)
    if request.captions and isinstance(painter, TorchPainter):
        of_captions = run_captions(painter.pipeline, request.captions, classifier, painter.how)
        record["captions"] = {"of_each": request.captions, "results": asdict(of_captions)}
        tables.append(_table_of_captions(of_captions))
        _write(record, request.json_file)
    Console().print(*tables)


def _conditions(request: ToyRequest, segments: bool) -> list[Condition]:
    """What to picture: everything asked for; without a word everything that the model can."""
    from dreamcache.training.errors import BenchmarkError
    from dreamcache.training.evaluation.toys.benchmark import CONDITIONS, ON_WHITE

    if not request.conditions:
        return list(CONDITIONS if segments else ON_WHITE)
    if "from_scene" in request.conditions and not segments:
        raise BenchmarkError(
            "from_scene: a base or bundle with a segmenter is expected, received one without; "
            "leave the condition out, or train one with: dreamcache train miniature segmenter"
        )
    return [name for name in CONDITIONS if name in request.conditions]


def _write(record: dict[str, Any], place: Path | None) -> None:
    if place is not None:
        write_json(place, record)


def _bundle_painter(request: ToyRequest) -> tuple[BundlePainter, dict[str, Any]]:
    from dreamcache.runtime import Pipeline
    from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

    assert request.bundle is not None
    pipe = Pipeline.load(request.bundle, keep_sessions=True)
    settings = {"from": "bundle", "precision": pipe.contract.precision, **request.options}
    return BundlePainter(pipe, request.options), settings


def _torch_painter(request: ToyRequest) -> tuple[TorchPainter, dict[str, Any]]:
    from dreamcache.models.pipeline import DreamCachePipeline
    from dreamcache.training.device import fast_in_bf16, training_device
    from dreamcache.training.evaluation.toys.painter import TorchPainter, sampling_settings

    device = training_device()
    pipeline = DreamCachePipeline.load(request.base, request.adapters, str(device))
    how = replace(sampling_settings(request.adapters, request.options), bf16=fast_in_bf16(device))
    return TorchPainter(pipeline, how), {"from": "pytorch", **asdict(how)}


def _table(results: dict[Condition, Scores]) -> Table:
    from rich.table import Table

    quality = ("sharpness: picture / toy", "Fréchet")
    titles = ("identity accuracy", "body / accent / pattern", "scene accuracy", "colour ΔE", *quality)
    table = Table("condition", *titles)
    for condition, scores in results.items():
        identity, scene, measured = scores.identity_accuracy, scores.scene_accuracy, scores.quality
        assert measured is not None
        table.add_row(
            condition.replace("_", " "),
            str(identity),
            " / ".join(f"{value:.1%}" for value in scores.attributes.values()),
            str(scene),
            f"{scores.colour_distance.mean:.1f}",
            f"{measured.sharpness:.2f} / {measured.toy_sharpness:.2f}",
            "" if measured.frechet_distance is None else f"{measured.frechet_distance:.1f}",
        )
    return table


def _table_of_captions(scores: CaptionScores) -> Table:
    from rich.table import Table

    table = Table("captions alone", "kind", "scene", "named attributes", "style")
    table.add_row("", *map(str, (scores.kind, scores.scene, scores.named, scores.style)))
    return table


def _table_of_two(results: dict[PairCondition, PairScores]) -> Table:
    from rich.table import Table

    table = Table("two toys", "own attributes", "the other's", "kind", "scene accuracy")
    for condition, scores in results.items():
        shares = (scores.own, scores.other, scores.kind, scores.scene)
        table.add_row(condition.replace("_", " "), *map(str, shares))
    return table
