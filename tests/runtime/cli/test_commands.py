"""The command line: status, one line for what is wrong, no partial files, lazy commands."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from dreamcache.runtime.bundle.contract import CONTRACT_NAME, parse_contract
from dreamcache.runtime.cli import main as cli

RUN = [sys.executable, "-m", "dreamcache.runtime.cli"]
NAMES = {"cache", "generate", "inspect", "verify"}


def _status(*arguments: object) -> int:
    """Run in this process; the status it would leave with."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, with nothing on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dreamcache: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_cache_then_generate(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject, picture, again = (tmp_path / name for name in ("a.subject.safetensors", "a.png", "b.png"))
    assert _status("cache", pristine, "--reference", toy, "--out", subject, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] == subject.stat().st_size
    assert "white" in result["background"]
    common = ("generate", pristine, "--prompt", "a robot", "--seed", 5, "--steps", 2)
    assert _status(*common, "--subject", subject, "--out", picture) == 0
    assert f"{picture}: seed 5" in capsys.readouterr().out
    assert _status(*common, "--reference", toy, "--out", again, "--json") == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == [5]
    assert np.array_equal(np.asarray(Image.open(picture)), np.asarray(Image.open(again)))
    assert Image.open(picture).format == "PNG"


def test_fast_says_what_it_chose_and_takes_no_setting_of_its_own(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("generate", pristine, "--prompt", "a robot", "--seed", 5, "--reference", toy)
    assert _status(*common, "--fast", 11, "--out", tmp_path / "a.png", "--json") == 0
    captured = capsys.readouterr()
    assert "dreamcache: fast 11: " in captured.err
    assert json.loads(captured.out)["steps"] == 4 or "steps of" in captured.err
    assert _status(*common, "--fast", 12, "--out", tmp_path / "b.png") == 0
    assert "nothing to change, the picture takes 12 calls" in capsys.readouterr().err
    assert _status(*common, "--fast", 11, "--steps", 3, "--out", tmp_path / "c.png") == 1
    assert "--fast chooses --steps itself" in _error(capsys)
    assert _status(*common, "--fast", 1, "--out", tmp_path / "c.png") == 1
    assert "calls are expected with this bundle" in _error(capsys)
    assert not (tmp_path / "c.png").exists()


def test_a_segmenter_that_is_none_is_one_line(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.subject.safetensors"
    given = ("--reference", toy, "--segmenter", toy, "--out", out)
    assert _status("cache", pristine, *given) == 1
    assert f"{toy}: an ONNX model is expected" in _error(capsys)
    assert not out.exists()


def test_several_pictures_are_numbered(pristine: Path, toy: Path, tmp_path: Path) -> None:
    arguments = ("generate", pristine, "--prompt", "", "--reference", toy, "--steps", 1, "--seed", 1)
    assert _status(*arguments, "--num-images", 3, "--out", tmp_path / "p.png") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p-0.png", "p-1.png", "p-2.png"]


def test_inspect(pristine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status("inspect", pristine) == 0
    shown = capsys.readouterr().out
    assert "mid_block.attentions.0" in shown
    assert "random" in shown
    assert _status("inspect", pristine, "--json") == 0
    shown = capsys.readouterr().out
    assert json.loads(shown)["architecture"]["name"] == "tiny"
    assert parse_contract(shown) == parse_contract((pristine / CONTRACT_NAME).read_bytes())


@pytest.mark.parametrize("name", ["[/x]", "[red]me", "\x1b[2Jme"])
def test_names_out_of_a_bundle_are_text(
    bundle: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Neither markup, which would end in an error of rich's, nor commands to the terminal."""
    raw = json.loads((bundle / CONTRACT_NAME).read_text(encoding="utf-8"))
    tiny.edit_contract(bundle, versions={name: name}, architecture={**raw["architecture"], "name": name})
    assert _status("inspect", bundle) == 0
    shown = capsys.readouterr().out
    assert name.replace("\x1b", "\\x1b") in shown
    assert "\x1b[2J" not in shown
    (bundle / "unet/weights.data").unlink()
    assert _status("verify", bundle) == 1
    assert "weights.data is missing" in " ".join(capsys.readouterr().out.split())


def test_verify(pristine: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _status("verify", pristine, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["passed"]
    names = {check["name"] for check in result["checks"]}
    assert names >= {"files", "weights finite", "graph signatures", "strength 0", "zeroed cache"}
    with (bundle / "unet/weights.data").open("r+b") as stream:
        stream.write(b"\x01")
    assert _status("verify", bundle) == 1
    captured = capsys.readouterr()
    assert "FAILED" in captured.out
    assert captured.err.startswith("dreamcache: files: unet/weights.data was changed")


def test_verify_finds_a_graph_that_ignores_its_reference(
    bundle: Path, tiny: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.fromfile(bundle / "unet/weights.data", np.float32)
    # Everything that the keys and values are multiplied with, made zero: a condition that was lost.
    for name, (offset, count) in _stored(bundle).items():
        if name.endswith("to_out") and "attentions" in name:
            data[offset : offset + count] = 0
    data.tofile(bundle / "unet/weights.data")
    tiny.seal(bundle)
    assert _status("verify", bundle, "--json") == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    failed = {check["name"] for check in checks if not check["passed"]}
    assert failed == {"reference counts", "zeroed cache", "other cache"}


def _stored(bundle: Path) -> dict[str, tuple[int, int]]:
    """Offset and count in float32 elements of each weight of the denoiser."""
    from dreamcache.runtime.bundle.graph_files.contents import stored_tensors

    return {
        tensor.name: (tensor.offset // 4, (tensor.size or 0) // 4)
        for tensor in stored_tensors(bundle / "unet/model.onnx")
        if tensor.location is not None
    }


@pytest.mark.parametrize("steps", ["0", "-1"])
def test_steps_that_are_none(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: str
) -> None:
    out = tmp_path / "p.png"
    arguments = ("generate", pristine, "--prompt", "x", "--reference", toy, "--out", out, "--steps", steps)
    assert _status(*arguments) == 1
    assert f"received {steps}" in _error(capsys)
    assert list(tmp_path.iterdir()) == []


def test_fractional_steps_are_a_usage_error(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.png"
    arguments = ("generate", pristine, "--prompt", "x", "--reference", toy, "--out", out, "--steps", "2.5")
    assert _status(*arguments) == 2
    assert "--steps" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_usage_errors(pristine: Path, toy: Path, tmp_path: Path) -> None:
    common = ("generate", pristine, "--prompt", "x", "--out", tmp_path / "p.png")
    assert _status(*common) == 2
    assert _status(*common, "--reference", toy, "--subject", toy) == 2
    assert _status(*common, "--subject", toy, "--mask", toy) == 2
    assert _status(*common, "--subject", toy, "--segmenter", toy) == 2
    assert _status("no-such-command") == 2
    assert _status("generate", pristine, "--no-such-option") == 2
    assert _status("--help") == 0


def test_an_output_that_exists_is_kept(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.png"
    out.write_bytes(b"precious")
    arguments = ("generate", pristine, "--prompt", "x", "--reference", toy, "--steps", 1, "--out", out)
    assert _status(*arguments) == 1
    assert "--overwrite" in _error(capsys)
    assert out.read_bytes() == b"precious"
    assert _status(*arguments, "--overwrite") == 0
    assert Image.open(out).size == (16, 16)


def test_outputs_of_the_wrong_kind(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _status("cache", pristine, "--reference", toy, "--out", tmp_path / "x.bin") == 1
    assert "subject.safetensors" in _error(capsys)
    arguments = ("generate", pristine, "--prompt", "x", "--reference", toy)
    assert _status(*arguments, "--out", tmp_path / "x.jpg") == 1
    assert ".png" in _error(capsys)
    assert _status(*arguments, "--out", tmp_path / "absent" / "x.png") == 1
    assert "does not exist" in _error(capsys)


def test_bad_inputs_are_one_line(
    pristine: Path,
    bundle: Path,
    tiny: ModuleType,
    toy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "p.png"
    draw = ("--prompt", "x", "--out", out)
    assert _status("generate", tmp_path / "absent", *draw, "--reference", toy) == 1
    assert "is not a folder" in _error(capsys)
    assert _status("generate", pristine, *draw, "--reference", tmp_path / "absent.png") == 1
    assert "no such file" in _error(capsys)
    assert _status("generate", pristine, *draw, "--subject", toy) == 1
    assert "a complete subject file is expected" in _error(capsys)
    assert _status("generate", pristine, *draw, "--reference", toy, "--provider", "abacus") == 1
    assert "abacus" in _error(capsys)
    tiny.edit_contract(bundle, format_version=7)
    for command in (("generate", bundle, *draw, "--reference", toy), ("inspect", bundle)):
        assert _status(*command) == 1
        assert "bundle format 7 is newer" in _error(capsys)
    assert not out.exists()


def test_a_cut_prompt_is_said_on_stderr(
    pristine: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = "a robot on the beach toy the снег"
    arguments = ("generate", pristine, "--prompt", prompt, "--reference", toy, "--steps", 1)
    assert _status(*arguments, "--out", tmp_path / "p.png") == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "lost: 'the снег'" in error


def test_debug_lets_the_traceback_through(tmp_path: Path) -> None:
    command = [*RUN, "inspect", str(tmp_path)]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False)
    assert plain.returncode == debug.returncode == 1
    assert "Traceback" not in plain.stderr
    assert "Traceback" in debug.stderr


def test_the_help_lists_every_command_and_imports_none() -> None:
    program = """
import sys
from dreamcache.runtime.cli import main as cli
try:
    cli.main(["--help"])
except SystemExit:
    loaded = {"dreamcache.runtime.cli.generate", "dreamcache.training", "numpy", "onnxruntime"} & set(sys.modules)
    loaded -= {"dreamcache.training"}
    assert not loaded, loaded
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    listed = {line.split()[1] for line in result.stdout.splitlines() if line.startswith("│ ")}
    assert listed >= NAMES
    assert "Draw new pictures of a subject from a prompt." in result.stdout


def test_a_missing_module_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_module_nobody_has\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("export", "needs_more:run [export,train]", cli.GROUP)
    with pytest.raises(ModuleNotFoundError) as missing:
        entry.load()
    line = cli._one_line(missing.value, entry)
    assert line == (
        "export needs a_module_nobody_has, which is not installed; "
        'install it with: pip install "dreamcache[export,train]"'
    )
