"""How many UNet calls a picture takes, counted by hand; and what --fast chooses within a number of them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dreamcache.runtime.budgets.calls import (
    FewCallsPoint,
    FewCallsRecord,
    counted_calls,
    read_few_calls,
    settings_within,
    unet_calls,
)
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.settings import Options, resolve_settings


@pytest.fixture(scope="module")
def contract(pristine: Path) -> Contract:
    return open_contract(pristine).contract


@pytest.mark.parametrize(
    ("options", "batch", "calls"),
    [
        ({"steps": 10, "guidance_mode": "dual"}, 1, (30, 0)),
        ({"steps": 10, "guidance_mode": "none"}, 1, (10, 0)),
        ({"steps": 10, "guidance_mode": "dual"}, 2, (20, 0)),
        ({"steps": 10, "guidance_mode": "dual", "step_cache": 2}, 1, (15, 15)),
        ({"steps": 10, "guidance_mode": "dual", "step_cache": 4}, 1, (9, 21)),
        # Steps 2 to 7 have their middles inside.
        ({"steps": 10, "guidance_mode": "dual", "guidance_interval": (0.2, 0.8)}, 1, (22, 0)),
        # Heun's method asks twice a step, but once in the last; step caching goes by steps.
        ({"steps": 10, "guidance_mode": "dual", "scheduler": "heun"}, 1, (57, 0)),
        ({"steps": 10, "guidance_mode": "none", "scheduler": "heun", "step_cache": 2}, 1, (10, 9)),
        ({"steps": 10, "guidance_mode": "none", "scheduler": "dpmpp_2m_sde"}, 1, (10, 0)),
        # Guidance begins at step 2, whose branches have no deep features yet.
        ({"steps": 4, "guidance_interval": (0.5, 1.0), "step_cache": 4, "guidance_mode": "dual"}, 1, (4, 4)),
    ],
)
def test_calls_follow_from_the_settings(
    contract: Contract, options: Options, batch: int, calls: tuple[int, int]
) -> None:
    assert unet_calls(resolve_settings(contract, **options), batch) == calls


def point(steps: int, calls: float, identity: float, sharpness: float = 0.4, **changes: Any) -> FewCallsPoint:
    given = {
        "scheduler": "dpmpp_2m",
        "guidance_interval": (0.0, 1.0),
        "step_cache": 1,
        "scene": 0.9,
    } | changes
    return FewCallsPoint(steps=steps, calls=calls, identity=identity, sharpness=sharpness, **given)


FULL = point(20, 60, 0.8, scheduler="ddim")
CACHED = point(20, 44.4, 0.81, scheduler="ddim", step_cache=3)
PART = point(8, 18, 0.7, guidance_interval=(0.0, 0.6))
BLURRED = point(6, 16, 0.75, sharpness=0.2)
FEW = point(4, 12, 0.6)
RECORD = FewCallsRecord(
    created="2026-11-27",
    model="tiny",
    fingerprint="0" * 64,
    guidance_mode="dual",
    toys=1,
    scenes_per_toy=1,
    points=(PART, FULL, FEW, CACHED, BLURRED),
)
TWENTY = {"steps": 20}


@pytest.mark.parametrize(
    ("calls", "asked", "chosen"),
    [
        (60, TWENTY, None),
        (59, TWENTY, CACHED),
        (45, TWENTY, CACHED),
        (40, TWENTY, PART),
        (17, TWENTY, FEW),  # one that blurs has half of its quality
        (12, TWENTY, FEW),
        # Without guidance a step is one call.
        (19, TWENTY | {"guidance_mode": "none"}, CACHED),
        (7, TWENTY | {"guidance_mode": "none"}, FEW),
        (20, TWENTY | {"guidance_mode": "none"}, None),
    ],
)
def test_the_best_settings_within_so_many_calls_are_chosen_and_said(
    contract: Contract, calls: int, asked: dict[str, Any], chosen: FewCallsPoint | None
) -> None:
    options, line = settings_within(contract, calls, asked, RECORD)
    assert options == ({} if chosen is None else chosen.options())
    settings = resolve_settings(contract, **asked | options)
    assert counted_calls(settings, contract.architecture.batch) <= calls
    assert f"{calls}: " in line
    if chosen is not None:
        assert f"{chosen.steps} steps of {chosen.scheduler}" in line
        assert f"identity {chosen.identity:.0%} for 80%" in line


def test_too_few_calls_and_a_distilled_base_are_refused(contract: Contract) -> None:
    with pytest.raises(SettingsError, match="at least 12 calls are expected"):
        settings_within(contract, 11, TWENTY, RECORD)
    guidance = contract.guidance.model_copy(update={"scheduler": "lcm"})
    distilled = contract.model_copy(update={"guidance": guidance})
    with pytest.raises(SettingsError, match=r"distilled for few steps.*take 60 calls"):
        settings_within(distilled, 30, TWENTY, RECORD)


def test_settings_that_a_bundle_lacks_are_passed_over(tiny: ModuleType, tmp_path: Path) -> None:
    bare = open_contract(tiny.build(tmp_path / "bundle", shallow=False)).contract
    assert settings_within(bare, 59, TWENTY, RECORD)[0] == PART.options()


def test_the_front_holds_what_nothing_cheaper_equals() -> None:
    assert RECORD.front() == [FEW, PART, CACHED]


def test_the_runners_own_record_is_read_and_has_every_call_first() -> None:
    record = read_few_calls()
    front = record.front()
    assert [one.calls for one in front] == sorted(one.calls for one in front)
    assert record.points[0].calls == max(one.calls for one in record.points)
    assert front[0].calls <= record.points[0].calls / 3
    assert all(0 <= value <= 1 for one in record.points for value in (one.identity, one.scene))
