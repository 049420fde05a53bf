"""`dreamcache synthesize`: the three stages one after the other, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_synthesis import SUBJECTS, TEMPLATE

from dreamcache.runtime.cli import main as cli
from dreamcache.training.data.shards.triplets import TripletDataset

Run = Callable[..., tuple[int, str, str]]


def test_from_nothing_to_triplets(tmp_path: Path, models: Path, tiny_base: Path, synthesize: Run) -> None:
    lists = {"subjects": SUBJECTS, "places": ("on a beach", "in the snow")}
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    captions, targets, references = (tmp_path / name for name in ("captions", "targets", "references"))
    one = (
        "captions",
        captions,
        "--samples",
        6,
        "--shard-size",
        3,
        "--model",
        models / "llama",
        "--max-words",
        12,
    )
    files = ("--subjects", tmp_path / "subjects.txt", "--places", tmp_path / "places.txt")
    status, out, err = synthesize(*one, *files, "--template", TEMPLATE, "--json")
    assert (status, err) == (0, "")
    told = json.loads(out)
    assert (told["stage"], told["made"]) == ("captions", 2)
    two = ("targets", captions, targets, "--model", tiny_base, "--resolution", 32, "--steps", 1, "--batch", 2)
    status, out, err = synthesize(*two, "--format", "png")
    assert (status, err) == (0, "")
    assert out.startswith(f"{targets}: 2 shards made, 0 kept; ")
    anything = (
        "--min-area",
        0,
        "--max-area",
        1,
        "--max-border",
        1,
        "--max-objects",
        99,
        "--min-confidence",
        0,
    )
    grounded = ("--detector", models / "detector", "--sam", models / "sam", "--box-threshold", 0.5)
    status, out, err = synthesize("references", targets, references, *grounded, *anything, "--json")
    assert (status, err) == (0, "")
    made = json.loads(out)["samples"]
    assert len(list(TripletDataset(references, resolution=32))) == made > 0
    status, out, err = synthesize("references", targets, references, *grounded, *anything)
    assert out.startswith(f"{references}: 0 shards made, 2 kept; {made} samples")
    status, out, err = synthesize("check", references)
    assert out == f"{references}: references, 2 shards, {made} samples, all whole\n"


def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, models: Path, captions: Path, targets: Path, tiny_base: Path, synthesize: Run
) -> None:
    cut, old, small = (tmp_path / name for name in ("cut", "old", "small"))
    for copy in (cut, old, small):
        shutil.copytree(targets, copy)
    shard = cut / "targets-00001.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    for path in old.glob("*.json"):
        path.write_text(path.read_text().replace('"version": 1', '"version": 0'))
    index = json.loads((small / "index.json").read_text())
    (small / "index.json").write_text(json.dumps({**index, "resolution": 64}))
    salient = ("--salient", models / "salient.onnx")
    out = tmp_path / "out"
    llama, nowhere = models / "llama", tmp_path / "nowhere"
    cases = {
        ("references", cut, out, *salient): "truncated; run `dreamcache synthesize targets`",
        ("references", old, out, *salient): "version 1 is expected, received 0",
        ("references", small, out, *salient): "the folder is mixed",
        ("references", captions, out, *salient): "stage targets are expected, received captions",
        ("references", targets, out, "--salient", nowhere): "put one as ONNX there",
        ("references", targets, out, "--detector", nowhere): "hf download IDEA-Research/grounding-dino-base",
        ("targets", nowhere, out, "--model", tiny_base): "received no such folder",
        ("targets", captions, out, "--model", nowhere): "hf download stable-diffusion-v1-5",
        ("captions", out, "--samples", 4, "--model", nowhere): "hf download meta-llama/Llama-3.2-3B-Instruct",
        ("captions", out, "--samples", 4, "--model", llama, "--template", "{place}"): "{subject} and perhaps",
        ("captions", out, "--samples", 4, "--model", llama, "--device", "cuda:99"): "auto, cpu or cuda:N",
        ("captions", out, "--samples", 4, "--model", llama, "--dtype", "int4"): "auto, float32",
        ("check", cut): "targets-00001.tar",
    }
    for arguments, message in cases.items():
        status, printed, error = synthesize(*arguments)
        assert (status, printed) == (1, ""), arguments
        assert message in error
        assert error.startswith("dreamcache: ")
        assert error.count("\n") == 1, error
        assert not list(tmp_path.rglob("*.part"))
        assert not list(out.glob("*.tar"))
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("captions", "out"),
        ("captions", "out", "--samples", 0),
        ("targets", "in", "out", "--format", "gif"),
        ("references", "in", "out", "--salient", "m.onnx", "--sam", "sam"),
        ("references", "in", "out", "--min-area", 2),
        ("paint", "out"),
    ],
)
def test_wrong_usage_is_status_2(synthesize: Run, arguments: tuple[object, ...]) -> None:
    status, out, _ = synthesize(*arguments)
    assert (status, out) == (2, "")


def test_each_stage_has_help(synthesize: Run) -> None:
    for name in ("captions", "targets", "references", "world", "check"):
        status, out, _ = synthesize(name, "--help")
        assert status == 0
        assert name in out


def test_the_programs_help_lists_the_group(
    entry_path: Path | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if entry_path is not None:
        monkeypatch.syspath_prepend(entry_path)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.strip("│ ").startswith("synthesize")
    )
    assert "Write training data" in line
