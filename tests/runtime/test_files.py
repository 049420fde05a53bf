"""Outputs are whole or absent, and what was there is never lost."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dreamcache.runtime.errors import ImageError, OutputError
from dreamcache.runtime.files import claim_file, replacing, sha256_file


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "out.bin"
    with replacing(place) as beside:
        beside.write_bytes(b"half")
        assert not place.exists()
        assert beside.parent == place.parent
    assert place.read_bytes() == b"half"
    assert list(tmp_path.iterdir()) == [place]


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "out.bin"
    place.write_bytes(b"before")

    def interrupted() -> None:
        with replacing(place, overwrite=True) as beside:
            beside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert place.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [place]


def test_what_killed_runs_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    names = ".out[1].bin.aa.part", ".out[1].bin.bb.part", ".out1.bin.cc.part"
    old, young, strange = (tmp_path / name for name in names)
    for left in (old, young, strange):
        left.write_bytes(b"half")
    for left in (old, strange):
        os.utime(left, (0, 0))
    with replacing(tmp_path / "out[1].bin") as beside:
        beside.write_bytes(b"whole")
    assert not old.exists()
    assert young.exists()
    assert strange.exists()


def test_a_full_disk_is_one_line_whoever_writes(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")

    def too_much(write: Callable[[Path], object]) -> None:
        kept = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, kept[1]))
        try:
            with replacing(tmp_path / "out.bin") as beside:
                write(beside)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, kept)

    tensors = {"a": np.zeros(1000, np.float32)}
    for write in (
        lambda path: path.write_bytes(b"x" * 2000),
        lambda path: safetensors.save_file(tensors, path),
    ):
        with pytest.raises(OutputError, match=r"out\.bin cannot be written: .*File too large") as caught:
            too_much(write)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_without_overwrite(tmp_path: Path) -> None:
    place = tmp_path / "out.bin"
    place.write_bytes(b"before")
    with pytest.raises(OutputError, match=r"exists already.*--overwrite") as caught, replacing(place):
        pass
    assert isinstance(caught.value, OSError)
    with replacing(place, overwrite=True) as beside:
        beside.write_bytes(b"after")
    assert place.read_bytes() == b"after"


def test_an_output_that_appeared_meanwhile_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "out.bin"

    def overtaken() -> None:
        with replacing(place) as beside:
            beside.write_bytes(b"mine")
            place.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        overtaken()
    assert place.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [place]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"), replacing(tmp_path / "absent/out.bin"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder"), replacing(tmp_path / "folder", overwrite=True):
        pass


def test_an_error_of_what_is_written_keeps_its_words(tmp_path: Path) -> None:
    """Errors of ours may be OSErrors too; only a foreign one is about the place."""
    with pytest.raises(ImageError, match=r"^a reference is missing$"), replacing(tmp_path / "out.bin"):
        raise ImageError("a reference is missing")
    with pytest.raises(OutputError, match="cannot be written"), replacing(tmp_path / "out.bin"):
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_no_device_and_no_pipe_is_replaced(tmp_path: Path) -> None:
    """Root may rename a file over /dev/null; a pipe's reader would wait for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(os.devnull)
    for place in (pipe, link, Path(os.devnull)):
        with pytest.raises(OutputError, match="is a device or a pipe, a file is expected"):
            claim_file(place, overwrite=True)
        with pytest.raises(OutputError, match="is a device or a pipe"), replacing(place, overwrite=True):
            raise AssertionError("work began")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    with replacing(link, overwrite=True) as temporary:
        temporary.write_bytes(b"x")
    assert link.read_bytes() == b"x"
    assert not link.is_symlink()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners of POSIX")
def test_a_file_that_only_its_owner_may_replace_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs.png"
    theirs.write_bytes(b"theirs")
    tmp_path.chmod(0o1777)
    assert claim_file(theirs, overwrite=True) == theirs
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(OutputError, match="belongs to another user"):
        claim_file(theirs, overwrite=True)
    assert claim_file(tmp_path / "ours.png", overwrite=True)


def test_sha256_reads_in_pieces(tmp_path: Path) -> None:
    data = b"x" * (3 << 20) + b"y"
    (tmp_path / "data").write_bytes(data)
    pieces: list[int] = []
    assert sha256_file(tmp_path / "data", pieces.append) == hashlib.sha256(data).hexdigest()
    assert sum(pieces) == len(data)
    assert len(pieces) == 4


def test_temporary_names_are_what_an_ascii_system_takes_too(tmp_path: Path) -> None:
    """There Python has other characters as bytes, which are half characters in text."""
    program = "import sys; from dreamcache.runtime.files import replacing\nwith replacing(sys.argv[1]) as t: t.touch()"
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for name in ("снег.png", "é" * 120 + ".png"):
        given = [sys.executable, "-c", program, str(tmp_path / name)]
        subprocess.run(given, env={**os.environ, **ascii_alone}, check=True)
        assert (tmp_path / name).is_file()
    assert len(list(tmp_path.iterdir())) == 2
