"""`dreamcache bench` on tiny bundles, from the command line to what it writes."""

from __future__ import annotations

import csv
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamcache.benchmarks.process.child import LoadSettings
from dreamcache.benchmarks.process.page_cache import drop_from_page_cache, resident_share
from dreamcache.benchmarks.protocol import measure
from dreamcache.benchmarks.protocol.case import BLOCK, QUICK
from dreamcache.benchmarks.protocol.measure import BenchPlan, bench
from dreamcache.benchmarks.record import Record, ScalingPoint, read_record
from dreamcache.runtime.bundle.contract import ParityReport
from dreamcache.runtime.cli.main import main

Build = Callable[..., Path]


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one line with which a command leaves with status 1."""
    with pytest.raises(SystemExit) as left:
        main(list(command))
    said = capsys.readouterr().err.strip()
    assert left.value.code == 1
    assert len(said.splitlines()) == 1
    return said


def test_every_figure_comes_from_its_raw_samples(record: Record) -> None:
    metrics, samples = record.metrics, record.samples
    assert len(samples["step"]) == len(samples["plain_step"]) == QUICK.steps
    assert len(samples["e2e"]) == QUICK.pictures
    assert len(samples["warm_load"]) == len(samples["first_step"]) == QUICK.warm_loads
    assert metrics.step_ms_p50 == pytest.approx(np.median(samples["step"]), rel=1e-3)
    assert metrics.step_ms_p50 is not None
    assert metrics.plain_step_ms_p50 is not None
    assert metrics.adapter_overhead == pytest.approx(metrics.step_ms_p50 / metrics.plain_step_ms_p50)
    assert metrics.e2e_ms_p50 == pytest.approx(np.median(samples["e2e"]), rel=1e-3)
    assert metrics.step_ms_p90 is None
    assert "64 samples" in record.absent["step_ms_p90"]
    # Two sites of 4 × 8 and 16 × 4, keys and values, four bytes each.
    assert metrics.cache_bytes == 2 * (4 * 8 + 16 * 4) * 4
    assert record.conditions.steps == 4
    assert (record.conditions.unet_calls, record.conditions.shallow_calls) == (12, 0)


def test_step_caching_times_the_shallow_graph_and_progress_ends_when_the_work_does(gated: Path) -> None:
    seen: list[tuple[int, int]] = []
    plan = BenchPlan(LoadSettings(), steps=2, quick=True, step_cache=2)
    record = bench([gated], None, plan, lambda done, total: seen.append((done, total)))
    assert (record.conditions.unet_calls, record.conditions.shallow_calls) == (3, 3)
    assert len(record.samples["shallow_step"]) == QUICK.steps
    assert record.order[:3] == ("first denoiser", "first shallow", "first plain")
    total = seen[-1][1]
    # Subject, loads, stages, memory; rounds of blocks; pictures.
    assert total == 4 + QUICK.steps // BLOCK + QUICK.pictures
    assert [done for done, of in seen if of == total] == list(range(1, total + 1))


def test_what_a_bundle_cannot_be_asked_is_absent_with_the_reason(record: Record) -> None:
    (other,) = record.others
    assert other.metrics.step_ms_p50 is not None
    assert other.metrics.plain_step_ms_p50 is None
    assert other.metrics.adapter_overhead is None
    assert "no plain graph" in other.absent["adapter_overhead"]


def test_blocks_of_graphs_and_bundles_alternate_in_one_run(record: Record) -> None:
    names = ["first denoiser", "first plain", "second denoiser"]
    rounds = QUICK.steps // BLOCK
    expected = [name for index in range(rounds) for name in (names if index % 2 == 0 else names[::-1])]
    assert list(record.order) == expected


def test_memory_is_told_apart_and_drawn_from_the_process_start(record: Record, gated: Path) -> None:
    metrics, trace = record.metrics, record.memory
    assert trace is not None
    assert metrics.peak_private_mb == pytest.approx(max(trace.private_mb), abs=0.01)
    assert metrics.peak_rss_mb is not None
    assert metrics.peak_rss_mb >= max(trace.resident_mb) - 0.01
    assert trace.private_mb[0] < 0.5 * max(trace.private_mb), "the first sample is the bare interpreter"
    assert {span.stage for span in trace.spans} == {"text", "step", "vae_decode"}
    assert all(0 < span.begin_s <= span.end_s <= trace.at_s[-1] + 0.1 for span in trace.spans)
    listed = json.loads((gated / "dreamcache.json").read_text())["files"]
    assert metrics.disk_bytes == sum(file["size"] for file in listed.values())


def test_scaling_and_sustained_are_recorded(record: Record) -> None:
    axes: dict[str, list[ScalingPoint]] = {point.axis: [] for point in record.scaling}
    for point in record.scaling:
        axes[point.axis].append(point)
    assert [point.value for point in axes["steps"]] == [1, 2, 4]
    assert [point.value for point in axes["batch"]] == [1, 2]
    assert all(point.per_picture_ms == pytest.approx(point.total_ms / point.value) for point in axes["batch"])
    assert all(point.computed for point in axes["pictures per subject"])
    many = axes["pictures per subject"]
    assert many[-1].per_picture_ms < many[0].per_picture_ms, "the caching is spread over the pictures"
    assert record.sustained is not None
    assert record.sustained.ends_s[-1] >= 0.02 * 60
    assert record.sustained.ratio == pytest.approx(record.sustained.last_per_s / record.sustained.first_per_s)


def test_tables_hold_the_record(outputs: Path, record: Record) -> None:
    lines = list(csv.DictReader((outputs / "out.csv").read_text().splitlines()))
    assert [line["bundle"] for line in lines] == ["first", "second"]
    assert float(lines[0]["step_ms_p50"]) == record.metrics.step_ms_p50
    assert lines[1]["plain_step_ms_p50"] == ""
    assert {line["weights"] for line in lines} == {"random"}
    assert all("random weights" in line["notes"] and "quick" in line["notes"] for line in lines)
    table = (outputs / "out.markdown").read_text()
    assert "| weights | random | random |" in table
    assert "| fidelity | 120 dB, final 118 dB, condition 1.000 |" in table


def test_no_speed_without_its_fidelity_gate(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build(tmp_path / "b", parity=ParityReport(psnr_db={"denoiser": 120.0}))
    assert "psnr_db of cache" in refused(capsys, "bench", str(bundle))
    bundle = build(tmp_path / "c", parity=ParityReport(psnr_db={"denoiser": 120.0, "cache": 120.0}))
    assert "condition of reference and text" in refused(capsys, "bench", str(bundle))


def test_bad_input_is_refused_before_anything_runs(
    gated: Path, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "profile" in refused(capsys, "bench", str(gated), "--profile", "fast")
    assert "provider" in refused(capsys, "bench", str(gated), "--provider", "abacus")
    assert "provider cpu computes in fp32" in refused(capsys, "bench", str(gated), "--math", "fast")
    assert "threads" in refused(capsys, "bench", str(gated), "--threads", "0")
    assert "steps" in refused(capsys, "bench", str(gated), "--steps", "5000")
    assert "guidance mode" in refused(capsys, "bench", str(gated), "--guidance-mode", "triple")
    assert "interval" in refused(capsys, "bench", str(gated), "--guidance-interval", "0.8", "0.2")
    assert "no shallow graph" in refused(capsys, "bench", str(outputs / "second"), "--step-cache", "2")
    assert "exists already" in refused(capsys, "bench", str(gated), "--csv", str(outputs / "out.csv"))
    twice = str(tmp_path / "same")
    assert "same name" in refused(capsys, "bench", str(gated), "--csv", twice, "--html", twice)
    assert "absent.json" in refused(capsys, "bench", str(gated), "--methods", str(tmp_path / "absent.json"))
    newer = tmp_path / "newer.json"
    newer.write_text((outputs / "out.json").read_text().replace('"schema_version": 1', '"schema_version": 2'))
    assert "newer" in refused(capsys, "bench", "--merge", str(outputs / "out.json"), str(newer))


@pytest.mark.parametrize("extra", [["again", "--against", "other"], ["--merge", "--json", "out.json"]])
def test_options_that_contradict_each_other_are_a_usage_error(gated: Path, extra: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["bench", str(gated), *extra])
    assert left.value.code == 2


def test_records_of_several_devices_merge_into_one_table(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = json.loads((outputs / "out.json").read_text())
    raw["host"]["cpu"] = "Another CPU"
    raw["conditions"] |= {"width": 32, "height": 32}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(raw))
    with pytest.raises(SystemExit) as left:
        main(["bench", "--merge", str(outputs / "out.json"), str(other), "--csv", str(tmp_path / "all.csv")])
    assert left.value.code == 0
    lines = list(csv.DictReader((tmp_path / "all.csv").read_text().splitlines()))
    assert len(lines) == 4
    assert sum("Another CPU" in line["device"] for line in lines) == 2
    printed = capsys.readouterr().out
    assert printed.count("resolution") == 4, "two sizes give the fourth axis of scaling"


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system drops nothing from its cache")
def test_cold_is_cold_or_absent(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(os.urandom(1 << 22))
    assert resident_share([file]) > 0.9, "what was just written is in the page cache"
    if drop_from_page_cache([file], whole_machine=False) is None:
        assert resident_share([file]) <= 0.02
        half = file.stat().st_size // 2
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            opened.read(half)
        assert resident_share([file]) == pytest.approx(0.5, abs=0.1)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[at] for at in range(0, len(mapped), 4096)) > 0
        held = drop_from_page_cache([file], whole_machine=False)
        assert held is not None
        assert "stayed" in held
    empty = tmp_path / "empty"
    empty.touch()
    assert resident_share([empty, file]) == resident_share([file])


def test_a_bench_that_is_stopped_keeps_what_it_measured(
    gated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured, calls = measure._measure, []

    def stopped(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(measure, "_measure", stopped)
    place = tmp_path / "r.json"
    command = [
        "bench",
        str(gated),
        str(gated),
        "--quick",
        "--steps",
        "1",
        "--threads",
        "1",
        "--json",
        str(place),
    ]
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code != 0
    assert len(read_record(place).measurements()) == 1
    assert "stopped; 1 of 2 bundles measured" in capsys.readouterr().err
