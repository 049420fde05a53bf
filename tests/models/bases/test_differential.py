"""Bases altered in one thing each are equal to diffusers' pipeline or refused in one line; nothing in between."""

from __future__ import annotations

from pathlib import Path

import pytest
from altered_bases import AlteredBase, altered_bases, judged

CASES = list(altered_bases())


def test_there_are_sixty_cases_of_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equal_or_refused(case: AlteredBase, tiny_base: Path, tmp_path: Path) -> None:
    outcome = judged(case, tiny_base, tmp_path / "base")
    assert outcome.outcome in ("equal", "refused"), outcome
    if case.name == "unchanged":
        assert outcome.outcome == "equal"
    if outcome.outcome == "refused":
        assert outcome.line


def test_the_judge_sees_a_difference(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip taken literally, as before, is far from diffusers' picture."""
    import altered_bases as support

    from dreamcache.models.bases import base

    case = support.entry("scheduler/scheduler_config.json", clip_sample=True)
    read = base.read_schedule
    monkeypatch.setattr(
        base, "read_schedule", lambda name, config: read(name, config) | {"clip_sample": True}
    )
    outcome = judged(case, tiny_base, tmp_path / "base")
    assert outcome.outcome == "different"
    assert outcome.db is not None
    assert outcome.db < 40
