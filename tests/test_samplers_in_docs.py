"""docs/reference/samplers.md names every sampler of the runner, and each of diffusers' for such models on one side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from dreamcache.runtime.bundle.sampling import SchedulerKind, SigmaSpacing
from dreamcache.runtime.sampling.schedulers import calls_of_step

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "samplers.md").read_text(
    encoding="utf-8"
)
OURS, THEIRS = PAGE.split("## What diffusers has")


def missing(names: set[str], text: str) -> set[str]:
    return {name for name in names if f"`{name}`" not in text}


def test_every_sampler_and_spacing_of_the_runner_is_named() -> None:
    names = {*get_args(SchedulerKind), *get_args(SigmaSpacing)}
    assert missing(names, OURS) == set()
    assert missing({"plms"}, OURS) == {"plms"}


def test_calls_are_those_of_the_table() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`[^|\n]*\|[^|\n]*\|[^|\n]*\| (\S[^|\n]*?) \|", OURS, re.MULTILINE))
    assert len(rows) == len(get_args(SchedulerKind)) - 1
    for kind, formula in rows.items():
        calls = sum(calls_of_step(kind, step, 20) for step in range(20))
        assert formula == {20: "n", 21: "n + 1", 39: "2n - 1"}[calls], kind


def test_every_sampler_of_diffusers_for_such_models_is_on_one_side() -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

    names = {member.name for member in KarrasDiffusionSchedulers} | {"LCMScheduler", "TCDScheduler"}
    assert missing(names, PAGE) == set()
    both = {name for name in names if f"`{name}`" in OURS and f"`{name}`" in THEIRS}
    assert both == set()
    listed = set(re.findall(r"`(\w+Scheduler)`", PAGE))
    assert {name for name in listed if not hasattr(diffusers, name)} == set()
