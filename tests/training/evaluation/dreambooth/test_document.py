"""docs/guides/evaluation.md says what the code does: its options, its files, its published rows, its conversions."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

from dreamcache.training.evaluation.command import dreambooth
from dreamcache.training.evaluation.dreambooth import generation, scoring
from dreamcache.training.evaluation.dreambooth.metric_weights import KINDS, how_to_get
from dreamcache.training.evaluation.dreambooth.report import page, report
from dreamcache.training.evaluation.dreambooth.report.published import PUBLISHED

DOCUMENT = (Path(__file__).parents[4] / "docs" / "guides" / "evaluation.md").read_text(encoding="utf-8")


def options() -> set[str]:
    """The options of `dreamcache evaluate dreambooth`."""
    names = set(signature(dreambooth).parameters) - {"benchmark", "json_file", "masked"}
    return {f"--{name.replace('_', '-')}" for name in names} | {"--json", "--no-masked"}


def unexplained(text: str) -> set[str]:
    return {option for option in options() if not re.search(rf"{option}\b(?!-)", text)}


def test_every_option_is_explained() -> None:
    assert len(options()) == 21
    assert unexplained(DOCUMENT) == set()
    assert unexplained(DOCUMENT.replace("--reference-image", "--reference")) == {"--reference-image"}


def test_its_conversions_are_those_of_the_messages() -> None:
    for metric in KINDS:
        (command,) = re.findall(r'python -c "[^"]+"', how_to_get(metric))
        assert f"\n{command}\n" in DOCUMENT


def test_its_published_rows_are_those_of_the_table() -> None:
    rows = re.findall(
        r"^\| ([^|]+) \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.–]+) \|$", DOCUMENT, re.MULTILINE
    )
    assert rows == [
        (
            row.method,
            row.base or "–",
            f"{row.dino:.3f}",
            f"{row.clip_i:.3f}",
            "–" if row.clip_t is None else f"{row.clip_t:.3f}",
        )
        for row in PUBLISHED
    ]


def test_the_files_that_it_names_are_those_that_are_written() -> None:
    (listing,) = re.findall(r"\n\n((?:    OUT/.*\n)+)", DOCUMENT)
    for name in (
        f"{generation.PICTURES}/ROW/{generation.ROW_FILE}",
        f"{generation.PICTURES}/ROW/SUBJECT/{generation.SUBJECT_FILE}",
        f"{scoring.SCORES}/ROW.json",
        report.REPORT_JSON,
        report.REPORT_MARKDOWN,
        page.PAGE,
    ):
        assert f"OUT/{name}" in listing
    assert f"OUT/{scoring.GIVEN_MASKS}/ROW/SUBJECT/" in DOCUMENT
