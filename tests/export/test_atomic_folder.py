"""Killed between any two changes of the file system, an export leaves the old bundle or the new one, whole."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dreamcache.export import atomic_folder
from dreamcache.export.atomic_folder import MARKER, check_place, filled_folder
from dreamcache.runtime.bundle.contract import CONTRACT_NAME
from dreamcache.runtime.errors import OutputError

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


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
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
            if event in CHANGES or opened:
                seen += 1
                if seen > change:
                    os._exit(9)

        sys.addaudithook(hook)
        with filled_folder(out, overwrite=True) as folder:
            _fill(folder, "new")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("exchanged", [True, False], ids=["one step", "moved aside"])
def test_killed_at_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanged: bool) -> None:
    if not exchanged:
        monkeypatch.setattr(atomic_folder, "_exchange", lambda *_: False)
    found, change, lived = set(), 0, False
    while not lived:
        place = tmp_path / str(change)
        out = place / "bundle"
        out.mkdir(parents=True)
        _fill(out, "old")
        lived = _export_killed_at(change, out)
        if exchanged:
            words = _words(out)
            assert len(words) == 1, f"killed before change {change}"
            found |= words
        check_place(out, overwrite=True)
        assert len(_words(out)) == 1
        # the next run goes on by itself, and leaves nothing else
        with filled_folder(out, overwrite=True) as folder:
            _fill(folder, "next")
        assert _words(out) == {"next"}
        assert [path.name for path in place.iterdir()] == ["bundle"]
        assert not (out / MARKER).exists()
        change += 1
    assert change > 12
    assert found == ({"old", "new"} if exchanged else set())


def test_the_error_that_ended_the_block_is_the_one_that_is_told(tmp_path: Path) -> None:
    """A file system that turned read-only lets nothing be removed either."""

    def export_to_a_full_disk() -> None:
        with filled_folder(tmp_path / "bundle") as folder:
            (folder / MARKER).rename(folder / "half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="bundle cannot be written: No space left"):
        export_to_a_full_disk()
    assert (tmp_path / ".bundle.partial" / "half").is_file(), "what is unmarked was not removed"
