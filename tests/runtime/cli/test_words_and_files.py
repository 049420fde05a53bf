"""Places are claimed first, files are written before words, words cannot fail, a PNG says how it was drawn."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import drawing, run
from PIL import Image

from dreamcache.runtime.cli.words import ForgivingStream, forgiving_words
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.files import claim_file, replacing
from dreamcache.runtime.pipeline import Pipeline
from dreamcache.runtime.sessions import system
from dreamcache.runtime.sessions.kept_graphs import FOLDER_VARIABLE, graph_folder


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_words_of_any_encoding_are_written(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)
    ForgivingStream(stream).write("─ é → 20 dB\n")
    said = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert said.endswith("20 dB\n")
    assert ("→" in said) == (encoding == "utf-8")
    assert ("é" in said) == (encoding != "ascii")


def test_a_reader_that_has_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with forgiving_words():
            print("to nobody", flush=True)
        assert sys.stdout is closed
        closed.flush()  # as the interpreter does at its end


def test_a_command_writes_though_nobody_reads(pristine: Path, toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.png"
    command = [
        sys.executable,
        "-m",
        "dreamcache.runtime.cli",
        *map(str, drawing(pristine, toy, "--out", out)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert Image.open(out).size == (16, 16)


def test_places_are_claimed_before_anything_is_drawn(
    pristine: Path,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(Pipeline, "load", work)
    (tmp_path / "folder.png").mkdir()
    for name, said in (("folder.png", "is a folder"), ("n" * 256 + ".png", "cannot be written")):
        assert run(*drawing(pristine, toy, "--out", tmp_path / name, "--overwrite")) == 1
        assert said in capsys.readouterr().err
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied")))
    with pytest.raises(OutputError, match="denied; choose another folder"):
        claim_file(tmp_path / "p.png")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    place = tmp_path / ("ü" * 123 + ".png")  # 250 bytes
    with replacing(place) as temporary:
        temporary.write_bytes(b"x")
    assert place.read_bytes() == b"x"


def test_pictures_drawn_before_a_stop_stay(
    pristine: Path,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decode, drawn = Pipeline.decode, []

    def stopped(self: Pipeline, latent: Any, tiled: bool | None = None) -> list[Image.Image]:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(latent)
        return decode(self, latent, tiled)

    monkeypatch.setattr(Pipeline, "decode", stopped)
    out = tmp_path / "p.png"
    assert run(*drawing(pristine, toy, "--num-images", 4, "--out", out)) != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-0.png", "p-1.png"]
    assert "2 of 4 pictures are written" in capsys.readouterr().err
    monkeypatch.undo()
    batch = Pipeline.load(pristine).generate(
        "a robot", Pipeline.load(pristine).cache(toy), steps=1, seed=5, num_images=2
    )
    for index, image in enumerate(batch):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(Image.open(tmp_path / f"p-{index}.png")))


def test_a_picture_says_how_it_was_drawn_and_is_repeated(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, bare, preview = (tmp_path / name for name in ("a.png", "b.png", "c.png", "every-2.png"))
    more = ("--steps", 4, "--scheduler", "euler", "--negative-prompt", "снег", "--preview", preview)
    assert run(*drawing(pristine, toy, *more, "--out", one)) == 0
    assert Image.open(preview).size == (16, 16)
    shown = Image.open(one).info["parameters"]
    assert shown.startswith("a robot\nNegative prompt: снег\nSteps: 4, Sampler: euler, ")
    assert ", Seed: 5, Size: 16x16, " in shown
    assert str(tmp_path) not in shown + Image.open(one).info["dreamcache"]
    capsys.readouterr()
    assert run("inspect", one, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["prompt"], told["seed"], told["steps"]) == ("a robot", 5, 4)
    assert told["bundle"] == Pipeline.load(pristine).contract.fingerprints.subject()
    assert run("inspect", one) == 0
    assert "euler" in capsys.readouterr().out
    assert run("generate", pristine, "--from", one, "--reference", toy, "--out", two) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(two)))
    assert Image.open(two).info["dreamcache"] == Image.open(one).info["dreamcache"]
    again = ("--from", one, "--reference", toy, "--seed", 6, "--no-metadata", "--out", bare)
    assert run("generate", pristine, *again) == 0
    assert not np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(bare)))
    assert Image.open(bare).info == {}
    capsys.readouterr()
    assert run("inspect", bare) == 1
    assert "without its settings" in capsys.readouterr().err
    assert run("generate", pristine, "--reference", toy, "--out", tmp_path / "d.png") == 2


def test_a_subject_file_is_private_and_its_picture_a_choice(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_picture, without = tmp_path / "a.subject.safetensors", tmp_path / "b.subject.safetensors"
    assert run("cache", pristine, "--reference", toy, "--out", with_picture) == 0
    assert "holds a 128 px picture of the reference (--no-thumbnail leaves it out)" in capsys.readouterr().out
    assert run("cache", pristine, "--reference", toy, "--out", without, "--no-thumbnail") == 0
    assert "holds no picture" in capsys.readouterr().out
    pipeline = Pipeline.load(pristine)
    assert pipeline.load_subject(with_picture).thumbnail is not None
    assert pipeline.load_subject(without).thumbnail is None
    if os.name == "posix":
        assert stat.S_IMODE(with_picture.stat().st_mode) == 0o600


def test_a_user_without_a_home_has_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", FOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert graph_folder().name == "dreamcache"
    monkeypatch.delattr(os, "getuid", raising=False)
    assert system.user_caches().name == "cache-user"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which counts as none
    assert system.user_caches().name == "cache-user"
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path.cwd()))
    assert system.user_caches() == Path.cwd()


def test_a_file_in_the_current_folder_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')", encoding="utf-8")
    command = system.module_command("dreamcache.benchmarks.process.worker")
    ask = json.dumps({"do": "import_libraries"}) + "\n"
    done = subprocess.run(command, cwd=tmp_path, input=ask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "answer" in done.stdout


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name != "posix", reason="signals of POSIX")
def test_a_signal_to_end_runs_what_cleans_up() -> None:
    cleaned = []

    def killed() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as left, system.ending_by_exception():
        killed()
    assert left.value.code == 128 + signal.SIGTERM
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill means something else there")
@pytest.mark.parametrize(
    ("handler", "status", "said"), [("default_int_handler", 130, "dreamcache: stopped\n"), ("SIG_IGN", 0, "")]
)
def test_a_signal_while_libraries_load_is_one_line(handler: str, status: int, said: str) -> None:
    # said outright: a suite in the background inherits a signal that is ignored
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = ["--version"]
from dreamcache.runtime.cli.__main__ import start
start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, said)
