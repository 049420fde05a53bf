"""What every room's tests share. Heavy imports stay inside the fixtures: the runner's tests need no torch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# tests/ is no package, so its shared module is found by path.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup` a file stays in one process, where its fixtures are; Core ML's tests share a bundle."""
    for item in items:
        group = item.path.parent if item.path.parent.name == "coreml" else item.path
        item.add_marker(pytest.mark.xdist_group(str(group)))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete diffusers Stable Diffusion folder with random weights, 32 px."""
    from tiny_models import write_tiny_base

    return write_tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base: Path) -> Path:
    """Randomised adapters that belong to `tiny_base`."""
    from tiny_models import write_tiny_adapters

    return write_tiny_adapters(tiny_base.parent / "adapters.safetensors", tiny_base)
