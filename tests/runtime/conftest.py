"""Fixtures of the runner's tests: a tiny bundle that tests may edit, and pictures of a toy."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import tiny_bundle
from PIL import Image, ImageDraw


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The module that writes bundles by hand, without PyTorch."""
    return tiny_bundle


@pytest.fixture(scope="session")
def pristine(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle for all tests that only read it."""
    return Path(tiny.build(tmp_path_factory.mktemp("pristine") / "bundle"))


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red and blue toy on white, 40 px."""
    image = Image.new("RGB", (40, 40), "white")
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, 32, 32), fill=(200, 30, 40))
    draw.rectangle((14, 14, 20, 26), fill=(20, 60, 200))
    path = tmp_path_factory.mktemp("toy") / "toy.png"
    image.save(path)
    return path
