"""How many denoiser calls a picture takes, and which settings draw the best picture within a number of them.

`few_calls.json` holds what was measured: identity, scene and sharpness of held-out toys for many settings, on the
miniature (docs/scripts/call_front.py). Fewer steps, guidance in a part of them and step caching all trade quality for
calls; the best of what was measured within a budget is the preset `--fast N`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dreamcache.runtime.bundle.contract import Contract, SchedulerKind
from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.sampling.schedulers import calls_of_step
from dreamcache.runtime.settings import Settings, resolve_settings

RECORD = Path(__file__).with_name("few_calls.json")
CHOSEN = ("steps", "scheduler", "guidance_interval", "step_cache")
"""The settings that a number of calls decides."""
SHALLOW_COST = 0.6
"""What a call of the shallow graph counts: SD 1.5's takes 0.58 of a whole one (docs/guides/memory.md)."""
_DISTILLED = ("lcm", "tcd")


class FewCallsPoint(BaseModel):
    """Settings that were measured, and what they drew.

    calls: of a picture, as `counted_calls`. identity, scene: shares that a judge finds right. sharpness: over renders'.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int
    scheduler: SchedulerKind
    guidance_interval: tuple[float, float]
    step_cache: int
    calls: float
    identity: float
    scene: float
    sharpness: float

    def options(self) -> dict[str, Any]:
        """As `Pipeline.generate` takes them."""
        return self.model_dump(include=set(CHOSEN))


class FewCallsRecord(BaseModel):
    """What was measured on one bundle. fingerprint: the one that its subjects carry."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    created: str
    model: str
    fingerprint: str
    guidance_mode: str
    toys: int
    scenes_per_toy: int
    points: tuple[FewCallsPoint, ...]

    def quality(self, point: FewCallsPoint) -> float:
        """Identity × scene × sharpness, which counts up to that of the settings with most calls."""
        most = max(self.points, key=lambda one: one.calls)
        return point.identity * point.scene * min(1.0, point.sharpness / max(most.sharpness, 1e-9))

    def front(self) -> list[FewCallsPoint]:
        """Points of which none with as few calls is as good, by rising calls."""
        best: list[FewCallsPoint] = []
        for point in sorted(self.points, key=lambda one: (one.calls, -self.quality(one))):
            if not best or self.quality(point) > self.quality(best[-1]):
                best.append(point)
        return best


@cache
def read_few_calls(path: Path = RECORD) -> FewCallsRecord:
    """The record."""
    return FewCallsRecord.model_validate_json(path.read_text(encoding="utf-8"))


def unet_calls(settings: Settings, batch: int) -> tuple[int, int]:
    """Calls of the whole denoiser and of the shallow graph for one picture of a cached subject.

    Branches fill the graph's batch. The whole denoiser runs at every `step_cache` steps, and where guidance takes up a
    branch whose deep features are not there. Heun's method asks twice a step, but once in the last.
    """
    whole = shallow = 0
    known: set[Branch] = set()
    for step in range(settings.steps):
        branches = settings.guidance.branches_at(step, settings.steps, has_reference=True)
        calls = -(-len(branches) // batch)
        for _ in range(calls_of_step(settings.scheduler, step, settings.steps)):
            if step % settings.step_cache == 0 or not known.issuperset(branches):
                known = set(branches)
                whole += calls
            else:
                shallow += calls
    return whole, shallow


def counted_calls(settings: Settings, batch: int) -> float:
    """Calls of one picture, of which shallow ones count `SHALLOW_COST`."""
    whole, shallow = unet_calls(settings, batch)
    return whole + SHALLOW_COST * shallow


def settings_within(
    contract: Contract, calls: int, asked: Mapping[str, Any], record: FewCallsRecord | None = None
) -> tuple[dict[str, Any], str]:
    """The measured settings of the best quality within so many calls of this bundle, and a line that says them.

    asked: further settings of `Pipeline.generate`. record: None is the runner's own. No settings where those asked for
    take no more calls.
    Raises: SettingsError for fewer calls than any settings take, and for a base that was distilled for few steps.
    """
    batch = contract.architecture.batch
    own = counted_calls(resolve_settings(contract, **asked), batch)
    if own <= calls:
        return {}, f"fast {calls}: nothing to change, the picture takes {own:g} calls of the denoiser"
    if contract.guidance.scheduler in _DISTILLED:
        raise SettingsError(
            f"--fast {calls}: this base was distilled for few steps, of which its settings take {own:g} calls; "
            "give --steps in the place of --fast"
        )
    known = read_few_calls() if record is None else record
    costs: dict[FewCallsPoint, float] = {
        point: counted_calls(resolve_settings(contract, **{**asked, **point.options()}), batch)
        for point in known.points
        if point.step_cache == 1 or contract.graphs.shallow is not None
    }
    within = [point for point, cost in costs.items() if cost <= calls]
    if not within:
        raise SettingsError(
            f"--fast {calls}: at least {min(costs.values()):g} calls are expected with this bundle; "
            "give a larger number, or --steps in its place"
        )
    best = max(within, key=lambda point: (known.quality(point), -costs[point]))
    return best.options(), _line(calls, best, costs[best], known)


def _line(calls: int, point: FewCallsPoint, cost: float, record: FewCallsRecord) -> str:
    start, end = point.guidance_interval
    parts = [f"{point.steps} steps of {point.scheduler}"]
    parts += [f"guidance in {start:g} to {end:g} of them"] if (start, end) != (0.0, 1.0) else []
    parts += [f"step cache {point.step_cache}"] if point.step_cache > 1 else []
    full = max(record.points, key=lambda one: one.calls)
    return (
        f"fast {calls}: {', '.join(parts)}: {cost:g} calls of the denoiser; on {record.model} identity "
        f"{point.identity:.0%} for {full.identity:.0%} with all {full.calls:g}, scene {point.scene:.0%} for "
        f"{full.scene:.0%}"
    )
