"""The page stands alone, its plots are sound SVG, and its break-even is arithmetic that can be checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dreamcache.benchmarks.record import Metrics, Record, RecordError
from dreamcache.benchmarks.report.break_even import Method, cheaper_from, methods, read_methods
from dreamcache.benchmarks.report.page import to_html
from dreamcache.benchmarks.report.plots import stage_seconds

OURS = Method("ours", subject_s=3.0, picture_s=2.0)


def test_the_page_refers_to_nothing_outside(outputs: Path) -> None:
    page = (outputs / "out.html").read_text()
    outside = re.compile(r"<(?:script|link|img|iframe)|(?:src|href)=\"(?!#)|url\((?!#)|@import")
    assert outside.search(page) is None
    assert outside.search('<img src="plot.png">') is not None
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    # Stages and latency of both bundles, then memory and break-even of each.
    assert len(drawings) == 6
    for drawing in drawings:
        assert len(list(ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}path"))) > 4


def test_what_was_not_measured_is_absent_and_names_are_only_text(record: Record) -> None:
    named = record.bundle.model_copy(update={"name": "<script>alert(1)</script>"})
    bare = record.model_copy(
        update={"bundle": named, "metrics": Metrics(), "samples": {}, "memory": None, "others": ()}
    )
    page = to_html([bare])
    assert "<script" not in page
    assert page.count("Absent: not measured.") == 4
    assert "<svg" not in page


def test_the_stages_add_up_to_the_first_picture(record: Record) -> None:
    stages = stage_seconds(record)
    metrics = record.metrics
    assert metrics.step_ms_p50 is not None
    assert metrics.e2e_ms_p50 is not None
    assert metrics.cache_ms is not None
    assert stages["denoise"] == pytest.approx(4 * 3 * metrics.step_ms_p50 / 1e3)
    drawn = sum(stages[name] for name in ("text", "denoise", "vae_decode", "rest"))
    assert drawn == pytest.approx(metrics.e2e_ms_p50 / 1e3)
    assert stage_seconds(record.model_copy(update={"metrics": Metrics()})) == {}


@pytest.mark.parametrize(
    ("other", "count"),
    [
        (Method("dearer each time", 0.0, 2.5), 6),
        (Method("as dear each time", 0.0, 2.0), None),
        (Method("cheaper each time", 0.0, 1.5), None),
        (Method("dearer at once", 4.0, 2.1), 1),
        (Method("dearer once, cheaper each time", 4.0, 1.0), None),
        (Method("a little dearer", 0.0, 5.0), 1),
    ],
)
def test_from_which_picture_on_it_is_no_dearer(other: Method, count: int | None) -> None:
    assert cheaper_from(OURS, other) == count
    if count is not None:
        assert OURS.cumulative_s(count) <= other.cumulative_s(count)
        assert count == 1 or OURS.cumulative_s(count - 1) > other.cumulative_s(count - 1)


def test_other_methods_are_computed_from_the_plain_step(record: Record) -> None:
    metrics = Metrics(cache_ms=400, step_ms_p50=1100, plain_step_ms_p50=1000, e2e_ms_p50=20_000)
    conditions = record.conditions.model_copy(update={"steps": 4, "unet_calls": 12})
    update = {"metrics": metrics, "conditions": conditions, "samples": {"vae_encode": (500.0,)}}
    found = {method.name: method for method in methods(record.model_copy(update=update))}
    assert found["DreamCache"] == Method("DreamCache", 0.9, 20.0)
    # Twelve calls without the adapters' 0.1 s each, then an encoder of 167/401 of a plain call.
    kept, each, second = (found[name] for name in ("image encoder, kept", "image encoder", "second UNet"))
    assert kept.picture_s == pytest.approx(18.8)
    assert kept.subject_s == pytest.approx(0.41646, rel=1e-4)
    assert each.cumulative_s(10) == pytest.approx(188 + 10 * 0.41646, rel=1e-4)
    assert second.picture_s == pytest.approx(18.8 + 4)
    assert all(method.computed for name, method in found.items() if name != "DreamCache")
    alone = record.model_copy(update=update | {"metrics": metrics.model_copy(update={"step_ms_p50": None})})
    assert [method.name for method in methods(alone)] == ["DreamCache"]


def test_measured_peers_are_read_and_refused(tmp_path: Path) -> None:
    place = tmp_path / "peers.json"
    place.write_text(json.dumps([{"name": "IP-Adapter", "subject_s": 1.5, "picture_s": 60}]))
    assert read_methods(place) == [Method("IP-Adapter", 1.5, 60.0)]
    for text in ("{}x", '[{"name": "x"}]', '[{"name": "x", "subject_s": 1, "picture_s": 0}]', "[3]"):
        place.write_text(text)
        with pytest.raises(RecordError):
            read_methods(place)
