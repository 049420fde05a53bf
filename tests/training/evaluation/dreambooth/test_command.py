"""`dreamcache evaluate dreambooth`: the whole way from the command line, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dreamcache.runtime.cli import main as cli
from dreamcache.training.evaluation.dreambooth.report.published import PUBLISHED


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["evaluate", "dreambooth", *(str(argument) for argument in arguments)])
    return int(left.value.code or 0)


def written(out: Path) -> dict[str, bytes]:
    """Every file with what it holds."""
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.fixture
def metrics(dino_folder: Path, clip_folder: Path) -> tuple[object, ...]:
    return ("--dino", dino_folder, "--clip", clip_folder)


def test_two_bundles_and_pytorch_in_one_table(
    dataset: Path,
    bundles: tuple[Path, Path],
    tiny_base: Path,
    tiny_adapters: Path,
    metrics: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, record = tmp_path / "out", tmp_path / "deep" / "result.json"
    common = (dataset, "--out", out, "--images", 1, "--prompts", 2, "--steps", 2, *metrics)
    rows = ("--bundle", bundles[0], "--bundle", bundles[1])
    assert status(*common, *rows, "--json", record) == 0
    said = capsys.readouterr().out
    assert "DreamCache (published)" in said
    assert "b-int8 − b-fp32" in said
    assert "a part of the benchmark (3 subjects of 3 listed, 2 prompts, 1 pictures each" in said
    first = json.loads(record.read_text())
    assert json.loads((out / "report.json").read_text()) == first
    assert [(row["name"], row["made_from"]["precision"]) for row in first["rows"]] == [
        ("b-fp32", "fp32"),
        ("b-int8", "int8"),
    ]
    fp32, int8 = first["rows"]
    assert fp32["means"]["dino"]["mean"] != int8["means"]["dino"]["mean"]
    difference = int8["differences"]["clip_t"]["mean"]
    assert difference == pytest.approx(int8["means"]["clip_t"]["mean"] - fp32["means"]["clip_t"]["mean"])
    assert len(first["published"]) == len(PUBLISHED)
    # another row joins the table; nothing of the others is made or scored again
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png") if "pictures" in path.parts}
    scores = (out / "scores" / "b-int8.json").read_bytes()
    assert status(*common, "--base", tiny_base, "--adapters", tiny_adapters) == 0
    capsys.readouterr()
    again = json.loads((out / "report.json").read_text())
    assert [row["name"] for row in again["rows"]] == ["pytorch", "b-fp32", "b-int8"]
    assert again["rows"][1]["means"] == fp32["means"]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (out / "scores" / "b-int8.json").read_bytes() == scores
    assert sorted(path.name for path in out.iterdir()) == [
        "photographs",
        "pictures",
        "pictures.html",
        "report.json",
        "report.md",
        "scores",
    ]


def test_the_stages_apart(
    dataset: Path,
    bundles: tuple[Path, Path],
    metrics: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = (dataset, "--out", tmp_path / "out", "--subject", "coffee", "--images", 1)
    assert status(*common, "--bundle", bundles[0], "--steps", 1, "--stage", "generate") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pictures"]
    capsys.readouterr()
    assert status(*common, "--stage", "score", *metrics, "--no-masked", "--seed", 5) == 1
    assert "b-fp32 is left out: it was made with --seed 0 --reference-image 0" in one_line(capsys)
    assert status(*common, "--stage", "score", *metrics, "--no-masked") == 0
    said = capsys.readouterr().out
    assert "an interval needs two subjects or more" in said
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert record["rows"][0]["means"]["mdino"] is None
    assert record["rows"][0]["pictures"] == 3


# A process that stops in the middle of its first subject, until it is killed.
HALTING = """
import sys, time
from pathlib import Path
from dreamcache.training.evaluation.dreambooth.benchmark import read_benchmark
from dreamcache.training.evaluation.dreambooth.generation import GenerationPlan, generate_row
from dreamcache.training.evaluation.dreambooth.generators import BundleGenerator, Taken

class Halting(BundleGenerator):
    def take(self, reference, mask):
        taken = super().take(reference, mask)
        def draw(prompt, seeds, made=[]):
            if len(made) == 2:
                print("halted", flush=True)
                time.sleep(600)
            made.append(prompt)
            return taken.draw(prompt, seeds)
        return Taken(draw, taken.background)

dataset, bundle, out = map(Path, sys.argv[1:])
generator = Halting(bundle, {"steps": 2, "step_cache": 1})
generate_row(generator, read_benchmark(dataset, prompts=2), GenerationPlan(images=2), out, lambda *_: None)
"""


def test_two_processes_one_killed_end_in_the_report_of_one(
    dataset: Path,
    bundles: tuple[Path, Path],
    metrics: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def evaluate(out: Path) -> int:
        rows = (dataset, "--bundle", bundles[0], "--out", out, "--no-masked", *metrics)
        return status(*rows, "--steps", 2, "--images", 2, "--prompts", 2)

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert evaluate(alone) == 0
    first = subprocess.Popen(
        [sys.executable, "-c", HALTING, str(dataset), str(bundles[0]), str(shared)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"halted\n"
        assert len(list(shared.rglob("*.png"))) == 2
        capsys.readouterr()
        assert evaluate(shared) == 0
        assert "2 pictures are being drawn by other processes" in capsys.readouterr().out
        assert len(list(shared.rglob("*.png"))) == 10, "the claimed subject is left to its process"
        assert not (shared / "report.json").exists()
    finally:
        first.kill()
        first.communicate()
    assert evaluate(shared) == 0
    ours = written(shared)
    assert ours == written(alone)
    assert len([name for name in ours if name.startswith("pictures/b-fp32") and name.endswith(".png")]) == 12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("{dataset}/nowhere",), "holds no prompts_and_classes.txt"),
        (("{damaged}",), "lacks photographs of 1 of its 3 subjects: tabby"),
        (("--dino", "{empty}"), "DINO ViT-S/16: {empty} holds no weights; to get safetensors, on a machine"),
        (("--clip", "{dataset}"), "CLIP ViT-B/32"),
        (("--reference-image", 7), "tabby has photographs 0 to 2"),
        (("--subject", "dog9"), "does not list dog9"),
        (("--masks", "{dataset}/nowhere"), "no such folder"),
        (("--bundle", "{empty}"), "dreamcache.json"),
        (("--step-cache", 1000), "step_cache"),
        (("--stage", "score"), "there are no pictures to score"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(
    arguments: tuple[object, ...],
    said: str,
    own_dataset: Path,
    bundles: tuple[Path, Path],
    dataset: Path,
    metrics: tuple[object, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(own_dataset / "tabby")
    (tmp_path / "empty").mkdir()
    places = {"dataset": dataset, "damaged": own_dataset, "empty": tmp_path / "empty"}
    before = sorted(tmp_path.rglob("*"))
    usual: list[object] = [*metrics, "--out", tmp_path / "out"]
    if not str(arguments[0]).startswith("{"):
        usual.append(dataset)
    if "--bundle" not in arguments:
        usual += ["--bundle", bundles[0]]
    assert status(*usual, *(str(a).format(**places) for a in arguments)) == 1
    assert said.format(**places) in one_line(capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((".", "--identities", "3"), "No such option: --identities"),
        ((), "Missing argument 'FOLDER'"),
        ((".", "--bundle", "x/a", "--bundle", "y/a"), "give each another name"),
        ((".", "--bundle", "pytorch"), "none of them pytorch"),
        ((".", "--stage", "draw"), "one of all, generate, score is expected"),
        ((".", "--mode", "triple"), "one of dual, text_first, classic, none is expected"),
        ((".", "--step-cache", "2"), "belongs to --bundle"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(*arguments) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
