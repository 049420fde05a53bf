"""A smaller base, and one bundle with Core ML packages, for all tests of this folder: conversions take long."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual one with a layer a block: half of the operations to convert."""
    from tiny_models import MINI_SHAPED, write_tiny_base

    folder = tmp_path_factory.mktemp("coreml-base") / "tiny"
    return write_tiny_base(folder, unet={**MINI_SHAPED, "layers_per_block": 1})


@pytest.fixture(scope="session")
def small_adapters(small_base: Path) -> Path:
    """Randomised adapters that belong to it."""
    from tiny_models import write_tiny_adapters

    return write_tiny_adapters(small_base.parent / "adapters.safetensors", small_base)


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
    from dreamcache.export.command import export

    out = tmp_path_factory.mktemp("both") / "bundle"
    export(
        out=out,
        base=str(small_base),
        adapters=small_adapters,
        target="all",
        coreml=["attention=split_einsum", "resolutions=64"],
    )
    return out
