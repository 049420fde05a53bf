"""What every room's tests share. Heavy imports stay inside the fixtures: the runner's tests need no torch."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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
    from made_once import made_once
    from tiny_models import write_tiny_base

    return made_once(tmp_path_factory, "base", lambda folder: write_tiny_base(folder / "tiny")) / "tiny"


@pytest.fixture(scope="session")
def tiny_adapters(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Randomised adapters that belong to `tiny_base`."""
    from made_once import made_once
    from tiny_models import write_tiny_adapters

    def make(folder: Path) -> None:
        write_tiny_adapters(folder / "adapters.safetensors", tiny_base)

    return made_once(tmp_path_factory, "adapters", make) / "adapters.safetensors"


@pytest.fixture(scope="session")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The JavaScript runtime of `dreamcache web`, fetched by npm as a user's is."""
    from made_once import made_once
    from page_files import need

    from dreamcache.runtime.web.delivery import runtime_files

    need("npm", "npm")

    def fetch(folder: Path) -> dict[str, Path]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder))
            return runtime_files()

    return fetch(made_once(tmp_path_factory, "javascript", fetch))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless browser, which is the system's; without a GPU, whose software stand-in would take minutes."""
    from page_files import launched

    # A name that leads to this machine, which a browser does not trust as it trusts "localhost".
    with launched("--host-resolver-rules=MAP desk.test 127.0.0.1") as browser:
        yield browser
