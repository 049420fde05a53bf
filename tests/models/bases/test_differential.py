"""Bases altered in one thing each: the bundle's picture is diffusers', or one line; nothing in between."""

from __future__ import annotations

import json
from pathlib import Path

import altered_bases as support
import pytest
from altered_bases import AlteredBase, altered_bases
from judged_bases import EQUAL_DB, Judge
from rare_bases import rare_bases
from table_of_bases import table_of_bases
from worn_bases import worn_bases

from dreamcache.models.bases import base

CASES = table_of_bases()
FAST = [*altered_bases(), *worn_bases(), *rare_bases()]
"""What the suite judges anew; the rest is judged by docs/scripts/altered_bases_page.py alone."""
RECORD = Path(__file__).resolve().parents[3] / "docs" / "results" / "bases.json"


@pytest.fixture(scope="module", name="judge")
def _judge(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(tiny_base, tmp_path_factory.mktemp("graphs"), steps=4, own_graphs=False)


def test_the_record_holds_every_case_with_its_outcome() -> None:
    rows = json.loads(RECORD.read_text(encoding="utf-8"))
    assert [row["case"] for row in rows] == [case.name for case in CASES]
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    for row in rows:
        if row["outcome"] == "equal":
            assert row["db"] >= EQUAL_DB
        else:
            assert (row["outcome"], row["db"]) == ("refused", None)


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_equal_or_refused(case: AlteredBase, judge: Judge, tmp_path: Path) -> None:
    outcome = judge.judged(case, tmp_path / "base")
    if outcome.outcome == "skipped":
        pytest.skip("has graphs of its own: docs/scripts/altered_bases_page.py")
    assert outcome.outcome in ("equal", "refused"), outcome
    if case.name == "unchanged":
        assert outcome.outcome == "equal"
    if outcome.outcome == "refused":
        assert outcome.ours


def test_the_judge_sees_a_difference(judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip taken literally, as before, is far from diffusers' picture."""
    case = support.entry("scheduler/scheduler_config.json", clip_sample=True)
    read = base.read_schedule
    monkeypatch.setattr(
        base, "read_schedule", lambda *given, **how: read(*given, **how) | {"clip_sample": True}
    )
    outcome = judge.judged(case, tmp_path / "base")
    assert outcome.outcome == "different"
    assert outcome.db is not None
    assert outcome.db < 40
