"""A tiny benchmark, tiny metric models and tiny bundles, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_bundle
from tiny_metrics import write_tiny_benchmark, write_tiny_clip, write_tiny_dino

from dreamcache.training.evaluation.dreambooth.benchmark import Benchmark, read_benchmark
from dreamcache.training.evaluation.dreambooth.metric_weights import MetricWeights, find_weights


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set, for tests that only read it."""
    return write_tiny_benchmark(tmp_path_factory.mktemp("dreambooth") / "dataset")


@pytest.fixture
def own_dataset(dataset: Path, tmp_path: Path) -> Path:
    """A copy that the test may damage."""
    return Path(shutil.copytree(dataset, tmp_path / "dataset"))


@pytest.fixture(scope="session")
def benchmark_read(dataset: Path) -> Benchmark:
    """The same, read."""
    return read_benchmark(dataset)


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT."""
    return write_tiny_dino(tmp_path_factory.mktemp("metrics") / "dino")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP."""
    return write_tiny_clip(tmp_path_factory.mktemp("metrics") / "clip")


@pytest.fixture(scope="session")
def dino(dino_folder: Path) -> MetricWeights:
    """Its weights."""
    return find_weights("dino", str(dino_folder))


@pytest.fixture(scope="session")
def clip(clip_folder: Path) -> MetricWeights:
    """Its weights."""
    return find_weights("clip", str(clip_folder))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles of other weights, which stand for two precisions."""
    folder = tmp_path_factory.mktemp("bundles")
    return Path(tiny_bundle.build(folder / "b-fp32")), Path(
        tiny_bundle.build(folder / "b-int8", seed=1, precision="int8")
    )
