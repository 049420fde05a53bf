"""Committed figures of speed: their records have today's settings of the runner or say that they have aged, and every
page that quotes one names the CPU's kind and the version that was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dreamcache.benchmarks.runner_settings import is_current, runner_settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results"
AGED = "aged.json"
# A record of the runner's time or memory has one of these.
_MEASURED = re.compile(r'"(?:\w+_ms(?:_p50)?|cpu_seconds|tenth_s|peak_private_mb)":')
_NOT_THE_RUNNER = {"vae-taesd.json": "PyTorch's modules"}
_SPEED = re.compile(r"\d (?:s|ms)\b")
_CPU = re.compile(r"AMD EPYC|Intel Xeon|Cortex|Snapdragon|Apple M\d")
_VERSION = re.compile(r"(?:dreamcache|version) \d+\.\d+\.\d+", re.IGNORECASE)


def settings_kept(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a record that keeps the runner's settings, or should."""
    if isinstance(value, dict):
        if "settings_sha256" in value or {"unet_calls", "profile"} <= set(value):
            yield value
        for inner in value.values():
            yield from settings_kept(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from settings_kept(inner)


def problems(results: Path) -> Iterator[str]:
    """What is wrong with the records of a folder."""
    aged = json.loads((results / AGED).read_text())
    texts = {
        path.relative_to(results).as_posix(): path.read_text()
        for path in results.rglob("*.json")
        if path.name != AGED
    }
    yield from (f"{AGED} names {name}, which is not there" for name in aged if name not in texts)
    for name, text in texts.items():
        if name in _NOT_THE_RUNNER or not _MEASURED.search(text):
            continue
        kept = list(settings_kept(json.loads(text)))
        current = bool(kept) and all(map(is_current, kept))
        if not current and not _VERSION.search(aged.get(name, "")):
            yield f"{name}: not the runner's settings of today; measure again, or add it to {AGED} with its version"
        if current and name in aged:
            yield f"{name} has today's settings, but {AGED} names it"


def unnamed_speeds(text: str) -> Iterator[str]:
    """Headings of the sections with a speed but without a CPU's kind or a version."""
    for section in re.split(r"^(?=#+ )", text, flags=re.MULTILINE):
        if _SPEED.search(section) and not (_CPU.search(section) and _VERSION.search(section)):
            yield section.splitlines()[0]


def test_committed_records_have_the_settings_of_today_or_say_that_they_have_aged() -> None:
    assert list(problems(RESULTS)) == []


def test_a_record_under_other_settings_is_refused_until_it_is_marked(tmp_path: Path) -> None:
    kept = runner_settings()
    record = {"conditions": kept | {"unet_calls": 20}, "metrics": {"step_ms_p50": 1.0}}
    other = kept | {"settings_sha256": runner_settings("memory")["settings_sha256"]}
    bare = {name: value for name, value in record["conditions"].items() if name != "settings_sha256"}

    def said(conditions: dict[str, Any], aged: dict[str, str]) -> list[str]:
        (tmp_path / "b8.json").write_text(json.dumps(record | {"conditions": conditions}))
        (tmp_path / AGED).write_text(json.dumps(aged))
        return list(problems(tmp_path))

    assert said(record["conditions"], {}) == []
    for conditions in (other, bare):
        assert len(said(conditions, {})) == 1
        assert len(said(conditions, {"b8.json": "old"})) == 1, "without its version"
        assert said(conditions, {"b8.json": "AMD EPYC, dreamcache 0.1.0"}) == []
    assert len(said(record["conditions"], {"b8.json": "dreamcache 0.1.0"})) == 1
    assert len(said(record["conditions"], {"gone.json": "dreamcache 0.1.0"})) == 1


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda path: path.name
)
def test_every_speed_names_the_cpu_and_the_version(path: Path) -> None:
    if RESULTS not in path.parents:  # made whole by a command, with its host inside
        assert list(unnamed_speeds(path.read_text(encoding="utf-8"))) == []


def test_a_speed_without_a_cpu_or_a_version_is_found() -> None:
    text = "# A\na step takes 2.16 s\n## B\n2.16 s, AMD EPYC, dreamcache 0.1.0\n## C\n3 ms, AMD EPYC\n## D\nno figure"
    assert list(unnamed_speeds(text)) == ["# A", "## C"]
