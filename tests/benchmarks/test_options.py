"""`benchmarks/options.py`: every session setting is timed on a bundle's own inputs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tiny_bundle import build
from tiny_golden import add_golden

from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.errors import BundleError

SCRIPT = Path(__file__).parents[2] / "benchmarks/options.py"


def test_every_setting_is_timed_in_turn(tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    folder = build(tmp_path / "bundle")
    with pytest.raises(BundleError, match="golden tensors are expected"):
        script["measure"](open_contract(folder), 1, 2)
    add_golden(folder)
    taken = script["measure"](open_contract(folder), 1, 2)
    assert set(taken) == {*script["CHANGES"], *script["PROFILES"]}
    assert all(len(times) == 2 and min(times) > 0 for times in taken.values())
