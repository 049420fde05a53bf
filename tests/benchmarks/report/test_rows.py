"""Rows from records: the gate, the weights and what is absent stand in every form of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.benchmarks.record import Fidelity, Record, read_record
from dreamcache.benchmarks.report.rows import formatted, rows, to_csv, to_markdown


def test_a_record_without_the_gate_loses_its_speeds_and_keeps_its_memory(record: Record) -> None:
    bare = record.model_copy(update={"fidelity": Fidelity(passed=True), "others": ()})
    (row,) = rows([bare])
    assert row.figures["step_ms_p50"] is None
    assert row.figures["e2e_ms_p50"] is None
    assert row.figures["adapter_overhead"] is None
    assert row.figures["peak_private_mb"] == record.metrics.peak_private_mb
    assert any("fidelity gate" in note for note in row.notes)
    (whole, _) = rows([record])
    assert whole.figures["step_ms_p50"] == record.metrics.step_ms_p50


def test_a_failed_gate_is_said_in_every_form(record: Record) -> None:
    failed = Fidelity(
        passed=False, reason="denoiser 60 dB", denoiser_db=60.0, cache_db=99.0, reference_ratio=0.8
    )
    bad = record.model_copy(update={"fidelity": failed})
    assert "FAILED 60 dB, condition 0.800" in to_markdown([bad])
    assert "FAILED" in to_csv([bad])
    assert "FAILED" not in to_csv([record])


def test_fast_math_is_said_in_every_form(record: Record) -> None:
    quick = record.model_copy(
        update={"conditions": record.conditions.model_copy(update={"math": "fast"}), "others": ()}
    )
    (row,) = rows([quick])
    assert row.labels["math"] == "fast"
    for text in (to_markdown([quick]), to_csv([quick])):
        assert "1. math fast: OpenVINO computes in bf16" in text
    (exact, _) = rows([record])
    assert exact.labels["math"] == "exact"
    assert not any("bf16" in note for note in exact.notes)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("step_ms_p50", 1234.56, "1235 ms"),
        ("step_ms_p50", 12345.6, "12.35 s"),
        ("text_ms", 0.0, "0 ms"),
        ("adapter_overhead", 1.0474, "1.047×"),
        ("peak_private_mb", 599.96, "600 MB"),
        ("disk_bytes", 89_760_000, "89.76 MB"),
        ("e2e_ms_p50", None, "–"),
    ],
)
def test_figures_carry_their_units(name: str, value: float | None, text: str) -> None:
    assert formatted(name, value) == text


def test_a_cell_cannot_break_the_table(record: Record) -> None:
    named = record.bundle.model_copy(update={"name": "a|b"})
    text = to_markdown([record.model_copy(update={"bundle": named})])
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| ")}
    assert "a\\|b" in text
    assert widths == {4, 7}


def test_the_committed_table_of_devices_is_that_of_its_records() -> None:
    folder = Path(__file__).parents[3] / "docs/results"
    records = [read_record(path) for path in sorted((folder / "devices").glob("*.json"))]
    merged = list(rows(records))
    desk, browser, gpu = [(str(count), "cpu") for count in (1, 2)], ["1", "2"], ("1", "webgpu")
    assert [(row.labels["threads"], row.labels["provider"]) for row in merged] == [
        *desk,
        *((count, "wasm") for count in browser),
        gpu,
    ]
    assert "software, not a device" in merged[-1].labels["device"]
    assert any("at least 94 dB" in note for note in merged[-1].notes)
    table = [line for line in (folder / "devices.md").read_text().splitlines() if line.startswith("|")]
    assert table == [line for line in to_markdown(records).splitlines() if line.startswith("|")]
