"""Killed between any two changes of the file system, an export leaves the old bundle or the new one, whole."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from killed import lives_through

from dreamcache.export import atomic_folder
from dreamcache.export.atomic_folder import MARKER, _old_place, check_place, filled_folder
from dreamcache.runtime.bundle.contract import CONTRACT_NAME
from dreamcache.runtime.errors import OutputError
from dreamcache.runtime.sessions.system import held_file


def _fill(folder: Path, word: str) -> None:
    (folder / "unet").mkdir()
    for name in (CONTRACT_NAME, "unet/weights.data", "unet/model.onnx"):
        (folder / name).write_text(word, encoding="utf-8")


def _words(folder: Path) -> set[str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MARKER]
    assert len(files) == 3
    return {path.read_text(encoding="utf-8") for path in files}


def _export_killed_at(change: int, out: Path) -> bool:
    """Replace `out` in a process that dies right before its n-th change; whether it lived to the end."""

    def export() -> None:
        with filled_folder(out, overwrite=True) as folder:
            _fill(folder, "new")

    return lives_through(change, export)


def _next_run_goes_on(out: Path) -> None:
    """It replaces what is there by itself, and leaves nothing else."""
    with filled_folder(out, overwrite=True) as folder:
        _fill(folder, "next")
    assert _words(out) == {"next"}
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    assert not (out / MARKER).exists()


@pytest.mark.parametrize("exchanged", [True, False], ids=["one step", "moved aside"])
def test_killed_at_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool) -> None:
    if not exchanged:
        monkeypatch.setattr(atomic_folder, "_exchange", lambda *_: False)
    found, change, lived = list[tuple[str, str]](), 0, False
    while not lived:
        out = tmp_path / str(change) / "bundle"
        out.mkdir(parents=True)
        _fill(out, "old")
        lived = _export_killed_at(change, out)
        old = _old_place(out)
        there, aside = ("".join(_words(place)) if place.exists() else "" for place in (out, old))
        assert there in ("old", "new") or (not there and aside == "old"), f"killed before change {change}"
        found.append((there, aside))
        check_place(out, overwrite=True)
        assert len(_words(out)) == 1
        _next_run_goes_on(out)
        change += 1
    assert change > 12
    moments = {("old", ""), ("new", "")}
    assert set(found) == (moments if exchanged else moments | {("", "old"), ("new", "old")})


def test_what_was_moved_aside_comes_back_whole_or_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the old bundle is removed; then its owner takes the new one away, and exports anew."""
    monkeypatch.setattr(atomic_folder, "_exchange", lambda *_: False)
    come_back, change, lived = set[str](), 0, False
    while not lived:
        out = tmp_path / str(change) / "bundle"
        out.mkdir(parents=True)
        _fill(out, "old")
        lived = _export_killed_at(change, out)
        shutil.rmtree(out, ignore_errors=True)
        with suppress(OutputError):
            check_place(out, overwrite=False)
        if out.exists():
            come_back |= _words(out)
        _next_run_goes_on(out)
        change += 1
    assert come_back == {"old"}


def test_the_error_that_ended_the_block_is_the_one_that_is_told(tmp_path: Path) -> None:
    """A file system that turned read-only lets nothing be removed either."""

    def export_to_a_full_disk() -> None:
        with filled_folder(tmp_path / "bundle") as folder:
            (folder / MARKER).rename(folder / "half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="bundle cannot be written: No space left"):
        export_to_a_full_disk()
    assert (tmp_path / ".bundle.partial" / "half").is_file(), "what is unmarked was not removed"


def _export(out: Path, word: str) -> None:
    check_place(out, overwrite=True)
    with filled_folder(out, overwrite=True) as folder:
        _fill(folder, word)


@pytest.mark.parametrize("exchanged", [True, False], ids=["one step", "moved aside"])
def test_a_link_to_a_bundle_stays_and_its_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool
) -> None:
    """On another disk, perhaps; twice, for what the first export may leave."""
    if not exchanged:
        monkeypatch.setattr(atomic_folder, "_exchange", lambda *_: False)
    (tmp_path / "disk").mkdir()
    link, folder = tmp_path / "bundle", tmp_path / "disk/kept"
    link.symlink_to(folder)
    for word in ("first", "second", "third"):
        _export(link, word)
        assert link.is_symlink()
        assert _words(folder) == {word}
        assert not (folder / MARKER).exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "disk"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["kept"]


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 120, "n" * 245])
def test_a_name_as_long_as_the_file_system_takes(tmp_path: Path, name: str) -> None:
    """The hidden folder's name is longer, and has to fit too."""
    for word in ("first", "second"):
        _export(tmp_path / name, word)
        assert _words(tmp_path / name) == {word}
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputError, match="File name too long"):
        check_place(tmp_path / ("n" * 256), overwrite=False)


def test_what_is_no_part_of_a_bundle_is_not_lost_with_it(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    _export(out, "old")
    listed = {"files": {"unet/weights.data": {}, "unet/model.onnx": {}}}
    (out / CONTRACT_NAME).write_text(json.dumps(listed), encoding="utf-8")
    (out / "unet/.DS_Store").touch()
    (out / "README.md").touch()
    check_place(out, overwrite=True)
    (out / "toy.subject.safetensors").write_text("dear", encoding="utf-8")
    with pytest.raises(OutputError, match=r"holds toy\.subject\.safetensors, which is no part of the bundle"):
        _export(out, "new")
    assert (out / "toy.subject.safetensors").read_text(encoding="utf-8") == "dear"
    (out / "toy.subject.safetensors").unlink()
    _export(out, "new")
    assert _words(out) == {"new"}


@pytest.mark.skipif(sys.platform == "win32", reason="locks of POSIX")
def test_a_second_export_does_not_take_the_folder_of_one_that_runs(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with filled_folder(out) as folder:
        _fill(folder, "first")
        second = os.fork()
        if second == 0:
            with suppress(OutputError), filled_folder(out) as other:
                _fill(other, "second")
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == 0
        with pytest.raises(OutputError, match="is being written by another export"):
            atomic_folder._check_idle(folder, out)
    assert _words(out) == {"first"}
    _next_run_goes_on(out)


def test_where_files_have_no_locks_an_export_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has other ones, and moves no folder in which a file is open."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with monkeypatch.context() as patch:
        patch.delattr(Path, "open")
        with held_file(tmp_path / "absent") as free:
            assert free
    for word in ("first", "second"):
        _export(tmp_path / "bundle", word)
        assert _words(tmp_path / "bundle") == {word}
