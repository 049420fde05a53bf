"""`mini`, the bundle that comes with the runner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreamcache.runtime import Pipeline
from dreamcache.runtime.bundle.folder import MINI_FOLDER, open_contract
from dreamcache.runtime.cli.main import main

LIMIT_MB = 54
"""The UNet's transformers stay in full precision, for the condition's sake. The wheel may have 90."""


def test_it_is_found_by_its_name_and_draws(toy: Path) -> None:
    pipeline = Pipeline.load("mini")
    assert pipeline.bundle.folder == MINI_FOLDER.resolve()
    subject = pipeline.cache(toy)
    drawn = [
        np.asarray(pipeline.generate("a toy robot on the beach", subject, steps=2, seed=1, strength=strength))
        for strength in (1.0, 0.0)
    ]
    assert drawn[0].shape == (128, 128, 3)
    assert (drawn[0] != drawn[1]).any(), "the subject counts"
    assert pipeline.bundle.total_bytes() / 1e6 < LIMIT_MB


def test_a_folder_of_that_name_comes_first(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle.rename(tmp_path / "mini")
    monkeypatch.chdir(tmp_path)
    assert open_contract("mini").folder == (tmp_path / "mini").resolve()


def test_commands_take_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["inspect", "mini"], ["generate", "mini", "--prompt", "a toy car", "--reference"]):
        if arguments[0] == "generate":
            Image.new("RGB", (9, 9), "white").save(tmp_path / "empty.png")
            arguments += [str(tmp_path / "empty.png"), "--out", str(tmp_path / "out.png")]
        with pytest.raises(SystemExit) as left:
            main(arguments)
        captured = capsys.readouterr()
        # the bundle opens; a picture without a subject is refused after that
        assert (left.value.code, "subject" in captured.err) in ((0, False), (1, True))
    with pytest.raises(SystemExit):
        main(["inspect", "minis"])
    assert "or `mini`, which comes with the runner" in capsys.readouterr().err
