"""A training's record names places as they are reached from it, and no user's home."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from dreamcache.training.adapters.run import relative_source


def test_places_are_relative_and_hub_ids_stay(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    assert relative_source(str(tmp_path / "base"), tmp_path / "runs" / "one") == "../../base"
    assert relative_source(tmp_path / "base", tmp_path) == "base"
    assert relative_source("owner/name", tmp_path) == "owner/name"
