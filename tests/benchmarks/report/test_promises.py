"""An int8 bundle that is slower than it should be is said to be, on each kind of CPU; and so is an aged record."""

from __future__ import annotations

from typing import Any

import pytest

from dreamcache.benchmarks.record import Measurement, Record
from dreamcache.benchmarks.report.promises import aged, guard_in_force, slower_than_promised
from dreamcache.benchmarks.report.rows import rows


def _with(one: Measurement, **parts: dict[str, Any]) -> Measurement:
    """A measurement with some fields of its parts changed."""
    return one.model_copy(
        update={name: getattr(one, name).model_copy(update=changes) for name, changes in parts.items()}
    )


def _pair(record: Record, ratio: float, features: tuple[str, ...], architecture: str = "sd15") -> Record:
    """A record of an int8 bundle whose step takes `ratio` of its fp32 bundle's."""
    facts = {"architecture": architecture}
    wide = _with(record.others[0], bundle=facts | {"precision": "fp32"}, metrics={"step_ms_p50": 2000.0})
    host = record.host.model_copy(update={"cpu_features": features})
    changed = _with(record, bundle=facts | {"precision": "int8"}, metrics={"step_ms_p50": 2000.0 * ratio})
    assert isinstance(changed, Record)
    return changed.model_copy(update={"host": host, "others": (wide,)})


AMX, VNNI, NONE = ("avx512_vnni", "amx_int8"), ("avx512_vnni",), ("avx2",)


@pytest.mark.parametrize(
    ("ratio", "features", "architecture", "said"),
    [
        (1.08, AMX, "sd15", "1.08 × that of second in fp32, 0.54 was seen on a CPU with AMX"),
        (0.54, AMX, "sd15", ""),
        (0.66, AMX, "sd15", ""),
        (0.66, VNNI, "sd15", "0.48 was seen on a CPU with AVX-512 VNNI"),
        (0.90, NONE, "sd15", ""),
        (1.01, NONE, "sd15", "no slower is expected"),
        (0.90, AMX, "mini", ""),
        (1.30, AMX, "mini", "no slower is expected"),
    ],
)
def test_a_slow_int8_bundle_is_said_to_be(
    record: Record, ratio: float, features: tuple[str, ...], architecture: str, said: str
) -> None:
    pair = _pair(record, ratio, features, architecture)
    line = slower_than_promised(pair, pair)
    assert said in line if said else line == ""
    notes = [note for row in rows([pair]) for note in row.notes]
    assert any("SLOWER" in note for note in notes) == bool(said)
    assert slower_than_promised(pair, pair.others[0]) == "", "fp32 promises nothing"


def test_other_conditions_are_not_compared(record: Record) -> None:
    pair = _pair(record, 2.0, AMX)
    assert slower_than_promised(pair, pair) != ""
    apart = _with(pair, conditions={"profile": "memory"})
    assert slower_than_promised(pair, apart) == ""


def test_the_guard_and_an_aged_record_are_said(record: Record) -> None:
    pair = _pair(record, 0.5, AMX)
    assert "unsigned" in guard_in_force(_with(pair, conditions={"guarded": True}))
    assert guard_in_force(_with(pair, conditions={"guarded": False})) == ""
    assert not any("aged" in note for row in rows([pair]) for note in row.notes)
    old = _with(pair, conditions={"settings_sha256": None})
    assert isinstance(old, Record)
    (first, _) = rows([old])
    page = _with(old, conditions={"providers": ("wasm",)})
    assert not aged(record, page)
    assert any(
        note.startswith(f"1. aged: taken on {record.created[:10]} by dreamcache") for note in first.notes
    )
