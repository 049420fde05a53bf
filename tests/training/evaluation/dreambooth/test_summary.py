"""Means, intervals and differences by hand, and what the table says beside them."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, BenchmarkSubject
from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights
from dreamcache.training.evaluation.dreambooth.report.page import PAGE, write_page
from dreamcache.training.evaluation.dreambooth.report.published import PUBLISHED
from dreamcache.training.evaluation.dreambooth.report.report import (
    HEAD,
    REPORT_JSON,
    REPORT_MARKDOWN,
    DreamBoothReport,
)
from dreamcache.training.evaluation.dreambooth.report.summary import RowSummary, summarise_real, summarise_row
from dreamcache.training.evaluation.dreambooth.scoring import METRICS
from dreamcache.training.evaluation.intervals import cluster_bootstrap

PLAN = GenerationPlan(images=2)
MADE = {"base": "tiny", "precision": "int8"}


@pytest.fixture
def benchmark() -> Benchmark:
    prompts = ("a {} in the snow", "a red {}")
    return Benchmark(
        Path(),
        tuple(
            BenchmarkSubject(name, kind, (), tuple(prompt.format(kind) for prompt in prompts))
            for name, kind in (("a", "dog"), ("b", "cup"))
        ),
        listed=2,
    )


def scores(benchmark: Benchmark, values: dict[str, list[float | None]]) -> dict[str, Any]:
    """Four pictures a subject, of which every metric has the value given; real photographs 0.9."""
    return {
        "subjects": {
            subject.name: {
                "real": {"pictures": 5, "masks": {"GrabCut": 5}, **dict.fromkeys(METRICS[:2], 0.9)},
                "pictures": {
                    f"{p:02d}-{i}.png": {
                        "prompt": text,
                        "mask": "skipped" if values[subject.name][2 * p + i] is None else "GrabCut",
                        **dict.fromkeys(METRICS, values[subject.name][2 * p + i]),
                    }
                    for p, text in enumerate(subject.prompts)
                    for i in range(2)
                },
            }
            for subject in benchmark.subjects
        }
    }


def test_every_subject_weighs_the_same(benchmark: Benchmark) -> None:
    known = scores(benchmark, {"a": [0.2, 0.4, 0.6, 0.8], "b": [1.0, None, None, None]})
    row = summarise_row("r", MADE, known, None, benchmark, PLAN)
    assert row.means["dino"] is not None
    assert row.means["dino"].mean == pytest.approx((0.5 + 1.0) / 2)
    assert row.means["dino"].mean != pytest.approx((0.2 + 0.4 + 0.6 + 0.8 + 1.0) / 5)
    assert (row.means["dino"].low, row.means["dino"].high) == pytest.approx((0.5, 1.0))
    assert row.subjects["a"]["clip_t"] == pytest.approx(0.5)
    assert row.prompts["a … in the snow"]["dino"] == pytest.approx((0.2 + 0.4 + 1.0) / 3)
    assert row.prompts["a red …"]["dino"] == pytest.approx(0.7)
    assert row.masks == {"GrabCut": 5, "skipped": 3}
    assert row.counts["mdino"] == (5, 2)
    assert (row.pictures, row.wanted) == (8, 8)
    assert row.differences == dict.fromkeys(METRICS)


def test_differences_are_taken_picture_by_picture(benchmark: Benchmark) -> None:
    first = scores(benchmark, {"a": [0.2, 0.4, 0.6, 0.8], "b": [0.9, 0.8, 0.9, 0.8]})
    less = {name: [v - 0.01 for v in values] for name, values in
            {"a": [0.2, 0.4, 0.6, 0.8], "b": [0.9, 0.8, 0.9, 0.8]}.items()}  # fmt: skip
    row = summarise_row(
        "r", MADE, scores(benchmark, {k: [*v] for k, v in less.items()}), first, benchmark, PLAN
    )
    difference, mean = row.differences["dino"], row.means["dino"]
    assert difference is not None
    assert mean is not None
    assert (difference.mean, difference.low, difference.high) == pytest.approx((-0.01,) * 3)
    assert mean.high - mean.low > 0.1


def test_pictures_of_other_prompts_and_subjects_are_left_out(benchmark: Benchmark) -> None:
    known = scores(benchmark, {"a": [0.2, 0.4, 0.6, 0.8], "b": [1.0] * 4})
    known["subjects"]["c"] = known["subjects"]["b"]
    known["subjects"]["a"]["pictures"]["01-0.png"]["prompt"] = "a purple dog"
    del known["subjects"]["b"]["pictures"]["00-1.png"]
    row = summarise_row("r", MADE, known, None, benchmark, PLAN)
    assert (row.pictures, row.wanted) == (6, 8)
    assert [*row.subjects] == ["a", "b"]
    assert row.subjects["a"]["dino"] == pytest.approx((0.2 + 0.4 + 0.8) / 3)
    assert summarise_real(known, benchmark).pictures == 10


def test_the_interval_is_a_bootstrap_over_groups() -> None:
    random = np.random.default_rng(1)
    means = random.normal(0.7, 0.1, 30)
    values = np.repeat(means, 100) + random.normal(0, 0.01, 3000)
    groups = np.repeat(np.arange(30), 100)
    interval = cluster_bootstrap(values, groups)
    # the standard error of 30 means; over single pictures it would be a tenth of that
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * means.std() / 30**0.5, rel=0.15)
    single = cluster_bootstrap(values, np.arange(3000))
    assert single.high - single.low < (interval.high - interval.low) / 5


@pytest.fixture
def report(benchmark: Benchmark, dino: MetricWeights, clip: MetricWeights) -> DreamBoothReport:
    first = scores(benchmark, {"a": [0.2, 0.4, 0.6, 0.8], "b": [0.9, 0.8, 0.9, 0.8]})
    second = scores(benchmark, {"a": [0.1, 0.4, 0.6, 0.8], "b": [0.9, 0.8, None, 0.8]})
    rows: list[RowSummary] = [
        summarise_row("fp32", MADE | {"precision": "fp32"}, first, None, benchmark, PLAN),
        summarise_row("int8", MADE, second, first, benchmark, PLAN),
    ]
    return DreamBoothReport(
        benchmark, PLAN, [dino, clip], rows, summarise_real(first, benchmark), {"fp32": {"kept": 2}}
    )


def test_the_table_has_every_row_and_marks_the_published_ones(report: DreamBoothReport) -> None:
    lines = {line[0]: line for line in report.lines()}
    names = ["fp32", "int8", "int8 − fp32", "real photographs"]
    assert [*lines] == [*names, *(f"{row.method} (published)" for row in PUBLISHED if row.base != "SD 2.1")]
    assert len(report.lines()) == len(names) + len(PUBLISHED)
    assert all(len(line) == len(HEAD) for line in report.lines())
    assert lines["fp32"][3] == "0.675 [0.500, 0.850]"
    assert lines["int8 − fp32"][3] == "-0.013 [-0.025, +0.000]"
    assert lines["int8"][-1] == "8/8"
    assert lines["DreamCache (published)"][3:8] == ("0.767", "0.816", "0.301", "–", "–")


def test_the_notes_say_why_a_row_does_not_compare(report: DreamBoothReport) -> None:
    text = "\n".join(report.notes)
    assert "is not DINO ViT-S/16" in text
    assert "is not CLIP ViT-B/32" in text
    assert "a part of the benchmark (2 subjects of 2 listed, 2 prompts, 2 pictures each" in text
    assert "backgrounds of int8: 7 GrabCut; 1 skipped" in text
    assert "references of fp32: 2 kept" in text
    assert "MDINO and MCLIP-I of int8 are of 7 of its 8 pictures, of 2 subjects" in text
    assert "MDINO and MCLIP-I of fp32" not in text


def test_one_subject_has_no_interval(benchmark: Benchmark) -> None:
    known = scores(benchmark, {"a": [0.2, 0.4, 0.6, 0.8], "b": [None] * 4})
    row = summarise_row("r", MADE, known, None, benchmark, PLAN)
    report = DreamBoothReport(benchmark, PLAN, [], [row], summarise_real(known, benchmark), {})
    assert report.lines()[0][3] == "0.500"


def test_the_files_say_the_same(report: DreamBoothReport, tmp_path: Path) -> None:
    report.write(tmp_path)
    record = json.loads((tmp_path / REPORT_JSON).read_text())
    assert record["schema"] == 1
    assert record["rows"][1]["means"]["dino"]["mean"] == pytest.approx(0.6542, abs=1e-4)
    assert record["rows"][1]["differences"]["dino"]["low"] == pytest.approx(-0.025)
    assert [row["method"] for row in record["published"]] == [row.method for row in PUBLISHED]
    markdown = (tmp_path / REPORT_MARKDOWN).read_text(encoding="utf-8")
    assert "| fp32 | tiny | fp32 | 0.675 [0.500, 0.850] |" in markdown
    assert "| a … in the snow | 0.575 |" in markdown


def test_a_narrow_console_cuts_no_figure(report: DreamBoothReport) -> None:
    console = Console(width=60, file=StringIO(), record=True)
    report.print(console)
    text = console.export_text()
    for whole in (
        "DreamBooth (fine-tuned) (published)",
        "[0.500, 0.850]",
        "-0.013",
        "[-0.025, +0.000]",
        "8/8",
    ):
        assert whole in text
    assert "…" not in text.replace("… in the snow", "")
    assert "- backgrounds of int8: 7 GrabCut; 1 skipped" in text


def test_the_page_shows_photographs_and_pictures(dataset: Path, tmp_path: Path) -> None:
    from dreamcache.training.evaluation.dreambooth.benchmark import read_benchmark

    odd = tmp_path / "pictures" / "b#1" / "coffee"
    odd.mkdir(parents=True)
    (odd / "00-0.png").write_bytes(b"")
    write_page(read_benchmark(dataset), ["b#1"], GenerationPlan(reference_image=1), tmp_path)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert 'src="pictures/b%231/coffee/00-0.png"' in page
    assert page.count('class="reference"') == 3
    assert "a cup in the jungle" in page
    assert "a red cup" not in page
    for link in ("photographs/tabby/00.png", "photographs/coffee/02.png"):
        assert f'src="{link}"' in page
        assert (tmp_path / link).stat().st_size > 500
