"""What fewer denoiser calls cost: identity, scene and sharpness of held-out toys, by steps, guidance interval, caching.

    python docs/scripts/call_front.py BUNDLE [--judge FILE] [--json FILE] [--plot PNG]

writes the record that `dreamcache generate --fast N` chooses from, and its plot. Every row draws the same toys, prompts
and seeds. A row that is in the record already is not drawn again; another bundle begins anew.
"""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from dreamcache.benchmarks.report.plots import COLOURS
from dreamcache.runtime import Pipeline
from dreamcache.runtime.budgets.calls import CHOSEN, RECORD, FewCallsPoint, FewCallsRecord, counted_calls
from dreamcache.runtime.settings import resolve_settings
from dreamcache.training.evaluation.toys.attribute_classifier import CLASSIFIER_FILE, load_classifier
from dreamcache.training.evaluation.toys.benchmark import draw_cases, run_benchmark
from dreamcache.training.evaluation.toys.bundle_painter import BundlePainter

PLOT = Path(__file__).parents[1] / "images/call-front.png"
ALL = (0.0, 1.0)
Row = tuple[int, str, tuple[float, float], int]


def rows(scheduler: str, steps: int) -> list[Row]:
    """Settings to measure: the base's own scheduler at its own steps, and a multistep solver at fewer.

    The first row has every call.
    """
    slow: list[tuple[tuple[float, float], int]] = [
        (ALL, 1), (ALL, 2), (ALL, 3), (ALL, 5), ((0.0, 0.6), 1), ((0.0, 0.6), 3), ((0.2, 0.8), 1),
    ]  # fmt: skip
    few = product((4, 6, 8, 12), (ALL, (0.0, 0.6)), (1, 2))
    return [
        *((steps, scheduler, interval, every) for interval, every in slow),
        *((count, "dpmpp_2m", interval, every) for count, interval, every in few),
    ]


def measure(painter: BundlePainter, row: Row, cases: list[Any], judge: Any) -> FewCallsPoint:
    """One row on every case."""
    options: dict[str, Any] = dict(zip(CHOSEN, row, strict=True))
    contract = painter.pipeline.contract
    settings = resolve_settings(contract, **options)
    with_row = BundlePainter(painter.pipeline, options, painter.subjects)  # type: ignore[arg-type]  # a plain dict
    scores = run_benchmark(cases, with_row, judge, ["dreamcache"])["dreamcache"]
    assert scores.quality is not None
    return FewCallsPoint(
        **options,
        calls=round(counted_calls(settings, contract.architecture.batch), 3),
        identity=round(scores.identity_accuracy.mean, 4),
        scene=round(scores.scene_accuracy.mean, 4),
        sharpness=round(scores.quality.sharpness, 4),
    )


def plot(record: FewCallsRecord, place: Path) -> None:
    """Identity, scene and sharpness over calls; the points that --fast chooses among are joined."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    front = record.front()
    titles = {
        "identity": "identity accuracy",
        "scene": "scene accuracy",
        "sharpness": "sharpness over renders'",
    }
    kinds = sorted({(point.scheduler, point.steps) for point in record.points}, key=lambda one: -one[1])
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        axes.plot([one.calls for one in front], [getattr(one, name) for one in front], color="#999999")
        for colour, kind in zip(COLOURS, kinds, strict=False):
            of_kind = [one for one in record.points if (one.scheduler, one.steps) == kind]
            values = [getattr(one, name) for one in of_kind]
            label = f"{kind[0]}, {kind[1]} steps"
            axes.plot([one.calls for one in of_kind], values, "o", color=colour, label=label, markersize=5)
        axes.set_xlabel("calls of the denoiser a picture")
        axes.set_title(title, fontsize=10)
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.02 * max(1.0 if name == "scene" else 0.0, *axes.get_ylim()))
    axes.legend(fontsize=7, loc="lower right")
    figure.savefig(place, dpi=150, metadata={"Software": None})


def main() -> None:
    """Measure, write the record after each row, and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--judge", type=Path, default=CLASSIFIER_FILE)
    parser.add_argument("--json", type=Path, default=RECORD)
    parser.add_argument("--plot", type=Path, default=PLOT)
    parser.add_argument("--toys", type=int, default=50)
    parser.add_argument("--scenes", type=int, default=4)
    given = parser.parse_args()
    pipe = Pipeline.load(given.bundle, keep_sessions=True, threads=1)
    contract = pipe.contract
    facts = {
        "model": contract.architecture.name,
        "fingerprint": contract.fingerprints.subject(),
        "guidance_mode": contract.guidance.mode,
        "toys": given.toys,
        "scenes_per_toy": given.scenes,
    }
    points: tuple[FewCallsPoint, ...] = ()
    if given.json.exists():
        earlier = FewCallsRecord.model_validate_json(given.json.read_text(encoding="utf-8"))
        if {name: getattr(earlier, name) for name in facts} == facts:
            points = earlier.points
    painter = BundlePainter(pipe)
    judge = load_classifier(given.judge).of_size(painter.size)
    cases = draw_cases(given.toys, given.scenes, size=judge.size)
    done = {tuple(point.options().values()) for point in points}
    for row in rows(contract.guidance.scheduler, contract.guidance.steps):
        if row in done:
            continue
        points += (measure(painter, row, cases, judge),)
        created = datetime.now(timezone.utc).date().isoformat()
        record = FewCallsRecord.model_validate({"created": created, **facts, "points": points})
        given.json.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        print(points[-1].model_dump_json(), flush=True)
    plot(FewCallsRecord.model_validate_json(given.json.read_text(encoding="utf-8")), given.plot)


if __name__ == "__main__":
    main()
