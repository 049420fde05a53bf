"""What every room's tests share. Heavy imports stay inside the fixtures: the runner's tests need no torch."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before onnxruntime is imported by a test's own hand.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# One of several processes (pytest-xdist) leaves the other cores to the others; before PyTorch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _seed() -> None:
    """The same random numbers for every fixture and test, whatever ran before it in which process."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Iterator[None]:
    _seed()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    _seed()
    return (yield)


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
