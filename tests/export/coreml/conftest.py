"""A smaller base, and one bundle with Core ML packages, for all tests of this folder: conversions take long."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual one with a layer a block: half of the operations to convert."""
    from made_once import made_once
    from tiny_models import MINI_SHAPED, write_tiny_base

    def make(folder: Path) -> None:
        write_tiny_base(folder / "tiny", unet={**MINI_SHAPED, "layers_per_block": 1})

    return made_once(tmp_path_factory, "coreml-base", make) / "tiny"


@pytest.fixture(scope="session")
def small_adapters(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Randomised adapters that belong to it."""
    from made_once import made_once
    from tiny_models import write_tiny_adapters

    def make(folder: Path) -> None:
        write_tiny_adapters(folder / "adapters.safetensors", small_base)

    return made_once(tmp_path_factory, "coreml-adapters", make) / "adapters.safetensors"


@pytest.fixture(scope="session")
def loud_base(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution gives values that 16 bits cannot hold; the normalisation after it takes the size away again."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(small_base, tmp_path_factory.mktemp("loud") / "loud")
    path = next((folder / "unet").glob("*.safetensors"))
    weights = load_file(path)
    for name in ("weight", "bias"):
        weights[f"down_blocks.0.resnets.0.conv1.{name}"] *= 4e5
    save_file(weights, path, {"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def loud_adapters(loud_base: Path) -> Path:
    """Randomised adapters that belong to it."""
    from tiny_models import write_tiny_adapters

    return write_tiny_adapters(loud_base.parent / "adapters.safetensors", loud_base)


@pytest.fixture(scope="session")
def both(small_base: Path, small_adapters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For both targets: split_einsum, iOS 18, two resolutions."""
    from made_once import made_once

    from dreamcache.export.command import export

    def make(folder: Path) -> None:
        export(
            out=folder / "bundle",
            base=str(small_base),
            adapters=small_adapters,
            target="all",
            coreml=["attention=split_einsum", "resolutions=64"],
        )

    return made_once(tmp_path_factory, "coreml-both", make) / "bundle"
