"""How many UNet calls a picture takes, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.benchmarks.protocol.calls import unet_calls
from dreamcache.runtime.bundle.contract import Contract
from dreamcache.runtime.bundle.folder import open_contract
from dreamcache.runtime.settings import Options, resolve_settings


@pytest.fixture(scope="module")
def contract(gated: Path) -> Contract:
    return open_contract(gated).contract


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
        # Guidance begins at step 2, whose branches have no deep features yet.
        ({"steps": 4, "guidance_interval": (0.5, 1.0), "step_cache": 4, "guidance_mode": "dual"}, 1, (4, 4)),
    ],
)
def test_calls_follow_from_the_settings(
    contract: Contract, options: Options, batch: int, calls: tuple[int, int]
) -> None:
    assert unet_calls(resolve_settings(contract, **options), batch) == calls
