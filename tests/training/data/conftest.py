"""What the tests of synthetic data share: tiny models, the folders that the first stages make of them, the command."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tiny_synthesis import (
    PLACES,
    SUBJECTS,
    TEMPLATE,
    write_tiny_detector,
    write_tiny_llama,
    write_tiny_salient,
    write_tiny_sam,
)

from dreamcache.runtime.cli import main as cli
from dreamcache.training.data.models.language_model import TokenSampling
from dreamcache.training.data.stages.captions import CaptionStage
from dreamcache.training.data.stages.stage import run_stage
from dreamcache.training.data.stages.targets import TargetStage

Answer = tuple[int, str, str]
"""Status, stdout, stderr of a command."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `llama`, `detector`, `sam` and the file `salient.onnx`."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_llama(folder / "llama")
    write_tiny_detector(folder / "detector")
    write_tiny_sam(folder / "sam")
    write_tiny_salient(folder / "salient.onnx")
    return folder


@pytest.fixture(scope="session")
def caption_stage(models: Path) -> CaptionStage:
    """Twelve captions in three shards."""
    return CaptionStage(
        12,
        str(models / "llama"),
        SUBJECTS,
        PLACES,
        TEMPLATE,
        TokenSampling(temperature=1.3),
        max_words=12,
        shard_size=4,
        batch=4,
    )


@pytest.fixture(scope="session")
def captions(tmp_path_factory: pytest.TempPathFactory, caption_stage: CaptionStage) -> Path:
    """A finished stage 1."""
    folder = tmp_path_factory.mktemp("stages") / "captions"
    run_stage(caption_stage, folder)
    return folder


@pytest.fixture(scope="session")
def target_stage(captions: Path, tiny_base: Path) -> TargetStage:
    """32 px pictures of random weights in two steps."""
    return TargetStage(captions, str(tiny_base), resolution=32, steps=2, form="png", batch=2)


@pytest.fixture(scope="session")
def targets(captions: Path, target_stage: TargetStage) -> Path:
    """A finished stage 2."""
    run_stage(target_stage, captions.parent / "targets")
    return captions.parent / "targets"


@pytest.fixture(scope="session")
def entry_path(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Where `synthesize` is declared when the installed package is older than it; None when it is not needed."""
    if any(entry.name == "synthesize" for entry in entry_points(group=cli.GROUP)):
        return None
    folder = tmp_path_factory.mktemp("entries")
    declared = folder / "dreamcache_entries-0.dist-info"
    declared.mkdir()
    (declared / "METADATA").write_text("Metadata-Version: 2.1\nName: dreamcache-entries\nVersion: 0\n")
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = (line for line in project.splitlines() if line.startswith('synthesize = "dreamcache.'))
    (declared / "entry_points.txt").write_text(f"[{cli.GROUP}]\n{line.replace(chr(34), '')}\n")
    return folder


@pytest.fixture
def environment(entry_path: Path | None) -> dict[str, str]:
    """For a process of its own in which `dreamcache synthesize` is known."""
    path = [os.environ.get("PYTHONPATH", ""), "" if entry_path is None else str(entry_path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def synthesize(
    entry_path: Path | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run `dreamcache synthesize …` in this process."""
    if entry_path is not None:
        monkeypatch.syspath_prepend(entry_path)

    def run(*arguments: object) -> Answer:
        with pytest.raises(SystemExit) as left:
            cli.main(["synthesize", *(str(argument) for argument in arguments)])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run
