"""The record's schema: what a run wrote comes back whole, and what is newer or damaged is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dreamcache.benchmarks.record import (
    SCHEMA_VERSION,
    BundleFacts,
    Metrics,
    Record,
    RecordError,
    dump_record,
    read_record,
)

FIELDS = [
    "cold_load_ms",
    "warm_load_ms",
    "first_step_ms",
    "text_ms",
    "cache_ms",
    "step_ms_p50",
    "step_ms_p90",
    "plain_step_ms_p50",
    "adapter_overhead",
    "vae_decode_ms",
    "e2e_ms_p50",
    "peak_private_mb",
    "peak_file_mb",
    "peak_rss_mb",
    "cache_bytes",
    "disk_bytes",
]


def test_the_metrics_have_the_names_that_others_read() -> None:
    assert list(Metrics.model_fields) == FIELDS
    assert set(Metrics().model_dump().values()) == {None}, "what was not measured is null"


def test_a_record_comes_back_as_it_was(record: Record, tmp_path: Path) -> None:
    place = tmp_path / "again.json"
    place.write_text(dump_record(record))
    assert read_record(place) == record
    other = record.model_copy(update={"quick": not record.quick})
    assert other != record


def test_a_record_from_before_there_was_a_choice_of_math_is_exact(outputs: Path, tmp_path: Path) -> None:
    raw = json.loads((outputs / "out.json").read_text())
    place = tmp_path / "other.json"

    def read(math: str | None) -> str:
        conditions = {name: value for name, value in raw["conditions"].items() if name != "math"}
        given = conditions if math is None else conditions | {"math": math}
        place.write_text(json.dumps(raw | {"conditions": given}))
        return read_record(place).conditions.math

    assert raw["conditions"]["math"] == "exact"
    assert (read(None), read("fast")) == ("exact", "fast")
    with pytest.raises(RecordError, match=r"conditions\.math"):
        read("quick")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "newer than"),
        ({"schema_version": True}, "no schema_version"),
        ({"colour": "red"}, "colour"),
        ({"metrics": {"step_ms_p50": -1.0}}, r"metrics\.step_ms_p50"),
        ({"metrics": {"step_ms_p50": "fast"}}, r"metrics\.step_ms_p50"),
        ({"fidelity": None}, "fidelity"),
    ],
)
def test_a_newer_or_damaged_record_is_refused(
    outputs: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    raw = json.loads((outputs / "out.json").read_text())
    place = tmp_path / "odd.json"
    place.write_text(json.dumps(raw | change))
    with pytest.raises(RecordError, match=said) as refused:
        read_record(place)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"record"', "[" * 100_000, '{"schema_version": 1, "x": "\\ud800"}']
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    place = tmp_path / "odd.json"
    place.write_text(text)
    with pytest.raises(RecordError):
        read_record(place)
    with pytest.raises(RecordError, match="cannot be read"):
        read_record(tmp_path / "absent.json")


def test_a_name_longer_than_a_folders_is_refused() -> None:
    """Twenty seconds of plots, and no room for them beside it."""
    facts = {
        "architecture": "tiny",
        "weights": "random",
        "precision": "fp32",
        "contract_sha256": "",
        "fingerprints": {},
    }
    assert len(BundleFacts.model_validate({**facts, "name": "é" * 255}).name) == 255
    with pytest.raises(ValidationError, match="at most 255 characters"):
        BundleFacts.model_validate({**facts, "name": "é" * 256})
