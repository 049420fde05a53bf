"""Odd places, counts and names on the command line: refused before any work, and no commands to the terminal."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from cli_runs import drawing, run
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dreamcache.runtime.pipeline import Pipeline


@pytest.mark.parametrize("preview", ["EVERY-2.png", "inside/../every-2.png", "link/every-2.png"])
def test_a_preview_that_may_be_the_picture_is_refused(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], preview: str
) -> None:
    """Else the finished picture would find a file in its place; where upper case is lower case, names are one too."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    asked = ("--preview", tmp_path / preview, "--out", tmp_path / "every-2.png")
    assert run(*drawing(pristine, toy, *asked)) == 1
    assert "a name of its own" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "link"]


def test_a_number_of_pictures_is_checked_before_places_are_claimed(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (10**12, 0, -1):
        assert run(*drawing(pristine, toy, "--num-images", count, "--out", tmp_path / "p.png")) == 1
        assert "num_images: a whole number from 1 to 1024 is expected" in capsys.readouterr().err
    last = ("generate", pristine, "--prompt", "x", "--reference", toy, "--steps", 1, "--seed", 2**63 - 1)
    assert run(*last, "--num-images", 2, "--out", tmp_path / "p.png") == 1
    assert "image i uses seed + i" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_place_of_a_picture_drawn_before_is_not_waited_for(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    given = ("generate", pristine, "--reference", toy, "--out", tmp_path / "p.png")
    for name, said in (
        ("pipe", "received no file"),
        ("absent", "received no file"),
        ("x" * 5000, "received no file"),
    ):
        assert run(*given, "--from", tmp_path / name) == 1
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "should be"),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' stands twice"),
        (r'{"prompt": "\ud800"}', "half a character"),
        ('{"steps": ' + "9" * 5000 + "}", "4300 digits"),
        ("whole", ""),
    ],
)
def test_settings_of_a_strange_picture_are_refused_in_one_line(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, known = (
        PngInfo(),
        {"prompt": "\x1b]0;x\x07", "seed": 1, "steps": 2, "scheduler": "[/x]", "bundle": "b"},
    )
    known |= {"guidance_mode": "dual", "guidance_scale": 1, "reference_guidance_scale": 1, "strength": 1}
    whole = json.dumps({**known, "width": 8, "height": 8})
    texts.add_text("dreamcache", whole if text == "whole" else text)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png", pnginfo=texts)
    assert run("inspect", tmp_path / "p.png") == bool(said)
    shown = capsys.readouterr()
    assert "\x1b]" not in shown.out
    assert said in shown.err
    assert shown.err.count("\n") == bool(said)


def test_a_picture_that_is_read_is_not_replaced(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The only photograph of a subject is dearer than a drawn one."""
    photograph = Path(shutil.copy(toy, tmp_path / "toy-5.png"))
    (tmp_path / "link").symlink_to(tmp_path)
    for asked in (("--out", photograph), ("--out", tmp_path / "link/toy-5.png"), ("--preview", photograph)):
        given = asked if "--out" in asked else (*asked, "--out", tmp_path / "p.png")
        assert run(*drawing(pristine, photograph, *given, "--overwrite")) == 1
        assert "toy-5.png is read for the picture and is not replaced" in capsys.readouterr().err
    assert photograph.read_bytes() == toy.read_bytes()
    assert run(*drawing(pristine, toy, "--out", photograph, "--overwrite")) == 0
    assert photograph.read_bytes() != toy.read_bytes()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--prompt", "a" * 20_001), "prompt: at most 20000 characters"),
        (("--negative-prompt", "a" * 20_001), "negative_prompt: at most 20000 characters"),
        (("--prompt", "(a:1000)", "--prompt-weights"), "weights within ±100 are expected"),
        (("--negative-prompt", "(a:1.2.3)", "--prompt-weights"), "a weight such as 1.3 is expected"),
    ],
)
def test_prompts_are_refused_before_the_reference_is_cached(
    pristine: Path,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: tuple[str, ...],
    said: str,
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(Pipeline, "cache", work)
    assert run(*drawing(pristine, toy, "--out", tmp_path / "p.png", *asked)) == 1
    assert said in capsys.readouterr().err


def test_a_picture_of_other_arithmetic_is_said_to_differ(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn with --math fast, it is not repeated without."""
    assert run(*drawing(pristine, toy, "--out", tmp_path / "p.png")) == 0
    again = ("generate", pristine, "--reference", toy, "--out", tmp_path / "again.png", "--overwrite")
    assert run(*again, "--from", tmp_path / "p.png") == 0
    assert capsys.readouterr().err == ""
    picture = Image.open(tmp_path / "p.png")
    known = json.loads(picture.info["dreamcache"])
    for math, status, line in (
        ("fast", 0, "--math fast repeats it"),
        ("other", 1, "the settings in it are damaged: math"),
    ):
        texts = PngInfo()
        texts.add_text("dreamcache", json.dumps({**known, "math": math}))
        picture.save(tmp_path / "q.png", pnginfo=texts)
        assert run(*again, "--from", tmp_path / "q.png") == status
        assert line in capsys.readouterr().err


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names that are no UTF-8")
def test_a_bundle_in_a_folder_whose_name_is_no_text_is_one_line(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(pristine, tmp_path / "b\udcff"))
    for command in (("verify", folder), ("inspect", folder)):
        assert run(*command) == 1
        assert (
            "a path in UTF-8 is expected, received another; rename the file or folder"
            in capsys.readouterr().err
        )


@pytest.mark.skipif(sys.platform == "win32", reason="names that Windows does not take")
def test_names_of_files_send_no_commands_to_the_terminal(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a\x1b[2J\x9b31m\nb.png"
    assert run(*drawing(pristine, toy, "--out", out)) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x9b" not in said
    assert run(*drawing(pristine, toy, "--out", out, "--overwrite", "--json")) == 0
    said = capsys.readouterr().out
    assert "\x9b" not in said
    assert json.loads(said)["images"] == [str(out)]


def test_an_error_of_the_system_is_its_own_word(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", str(tmp_path / "a\nb"))

    monkeypatch.setattr("dreamcache.runtime.bundle.folder.open_contract", refused)
    assert run("inspect", pristine) == 1
    assert capsys.readouterr().err == f"dreamcache: {tmp_path}/a\\nb: Too many open files\n"

    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("no base at 'x'; give a folder")

    monkeypatch.setattr("dreamcache.runtime.bundle.folder.open_contract", absent)
    assert run("inspect", pristine) == 1
    assert capsys.readouterr().err == "dreamcache: no base at 'x'; give a folder\n"


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_of_training_data_are_bounded(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("synthesize", "world", tmp_path / "w", "--samples", 4, "--seed", seed) == 2
    assert "--seed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_records_of_phones_have_a_place_before_anything_is_served(
    pristine: Path, toy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (toy, toy / "inside"):
        assert run("web", pristine, "--http", "--host", "127.0.0.1", "--port", 0, "--records", place) == 1
        assert "a folder for records is expected" in capsys.readouterr().err
