"""`dreamcache evaluate` without a benchmark: identity and scene accuracy on held-out toys of the drawn world."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from dreamcache.training.evaluation.toys.benchmark import Condition
    from dreamcache.training.evaluation.toys.pairs import PairCondition, PairScores
    from dreamcache.training.evaluation.toys.scores import Scores


def evaluate_toys(
    *,
    base: str,
    adapters: Path | None,
    bundle: Path | None,
    identities: int,
    scenes: int,
    pairs: int,
    steps: int,
    mode: str,
    guidance: float | None,
    reference_guidance: float | None,
    guidance_interval: tuple[float, float] | None,
    step_cache: int,
    condition: list[str] | None,
    out: Path | None,
) -> None:
    """Identity and scene accuracy on held-out toys; see `evaluate`."""
    from rich.console import Console

    from dreamcache.training.evaluation.toys.attribute_classifier import load_classifier, stated_accuracy
    from dreamcache.training.evaluation.toys.benchmark import CONDITIONS, as_record, draw_cases, run_benchmark
    from dreamcache.training.evaluation.toys.painter import SamplingSettings, TorchPainter, recommended
    from dreamcache.training.evaluation.toys.pairs import run_pairs

    unknown = sorted(set(condition or ()) - set(CONDITIONS))
    if unknown:
        raise typer.BadParameter(f"one of {', '.join(CONDITIONS)} is expected", param_hint="'--condition'")
    wanted = [name for name in CONDITIONS if not condition or name in condition]
    judge = load_classifier()
    cases = draw_cases(identities, scenes, size=judge.size)
    settings: dict[str, Any]
    of_two: dict[PairCondition, PairScores] = {}
    if bundle is not None:
        from dreamcache.runtime import Pipeline
        from dreamcache.runtime.settings import Options
        from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

        pipe = Pipeline.load(bundle, keep_sessions=True)
        options = Options(
            steps=steps,
            guidance_mode=mode or None,  # type: ignore[typeddict-item]  # one of MODES, as the command checks
            guidance_scale=guidance,
            reference_guidance_scale=reference_guidance,
            guidance_interval=guidance_interval,
            step_cache=step_cache,
        )
        results = run_benchmark(cases, BundlePainter(pipe, options), judge, wanted)
        settings = {"from": "bundle", "precision": pipe.contract.precision, **options}
    else:
        from dreamcache.models.bases.base import MINI_ADAPTERS
        from dreamcache.models.pipeline import DreamCachePipeline

        pipeline = DreamCachePipeline.load(base, adapters)
        usual = recommended(MINI_ADAPTERS if adapters is None else adapters)
        how = SamplingSettings(
            steps=steps,
            mode=mode if mode else usual.mode,  # type: ignore[arg-type]  # one of MODES
            guidance_scale=usual.guidance_scale if guidance is None else guidance,
            reference_guidance_scale=(
                usual.reference_guidance_scale if reference_guidance is None else reference_guidance
            ),
        )
        results = run_benchmark(cases, TorchPainter(pipeline, how), judge, wanted)
        of_two = run_pairs(pipeline, pairs, judge, how) if pairs else {}
        settings = {"from": "pytorch", **asdict(how)}
    record = {
        "identities": identities,
        "scenes_per_identity": scenes,
        "settings": settings,
        "judge_accuracy_on_held_out_renders": stated_accuracy(),
        "results": as_record(results),
    }
    if of_two:
        record["pairs"] = {
            "pictures": pairs,
            "results": {condition: asdict(scores) for condition, scores in of_two.items()},
        }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    Console().print(_table(results))
    if of_two:
        Console().print(_table_of_two(of_two))


def _table(results: dict[Condition, Scores]) -> Table:
    from rich.table import Table

    table = Table("condition", "identity accuracy", "body / accent / pattern", "scene accuracy", "colour ΔE")
    for condition, scores in results.items():
        identity, scene = scores.identity_accuracy, scores.scene_accuracy
        table.add_row(
            condition.replace("_", " "),
            str(identity),
            " / ".join(f"{value:.1%}" for value in scores.attributes.values()),
            str(scene),
            f"{scores.colour_distance.mean:.1f}",
        )
    return table


def _table_of_two(results: dict[PairCondition, PairScores]) -> Table:
    from rich.table import Table

    table = Table("two toys", "own attributes", "the other's", "kind", "scene accuracy")
    for condition, scores in results.items():
        shares = (scores.own, scores.other, scores.kind, scores.scene)
        table.add_row(condition.replace("_", " "), *map(str, shares))
    return table
