"""Making the pictures: seeds that stand, nothing made twice, nothing half there, nothing mixed."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_metrics import prompts_file

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.settings import Options
from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.dreambooth.benchmark import PROMPTS_FILE, Benchmark, read_benchmark
from dreamcache.training.evaluation.dreambooth.generation import (
    GenerationPlan,
    generate_row,
    row_folder,
    slots,
)
from dreamcache.training.evaluation.dreambooth.generators import BundleGenerator, TorchGenerator
from dreamcache.training.evaluation.toys.painter import SamplingSettings

# The tiny bundle's text encoder reads six tokens.
pytestmark = pytest.mark.filterwarnings("ignore:the prompt has")

PLAN = GenerationPlan(images=2)
ROW = "b-fp32"


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def make(
    bundle: Path, benchmark: Benchmark, out: Path, plan: GenerationPlan = PLAN, options: Options | None = None
) -> int:
    few: Options = {"steps": 2}
    return generate_row(
        BundleGenerator(bundle, few if options is None else options), benchmark, plan, out, quiet
    )


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture(scope="module")
def whole(bundles: tuple[Path, Path], dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished row."""
    out = tmp_path_factory.mktemp("whole")
    assert make(bundles[0], read_benchmark(dataset), out) == 18
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def test_seeds_depend_on_subject_prompt_and_number_alone(benchmark_read: Benchmark) -> None:
    seeds = [slot.seed(0) for slot in slots(benchmark_read, 4)]
    assert seeds[:3] == [1780786693, 365180937, 4170310335]
    assert len(set(seeds)) == len(seeds) == 36
    assert seeds[:3] == [slot.seed(0) for slot in slots(benchmark_read, 3)][:3]
    assert not {*seeds} & {slot.seed(1) for slot in slots(benchmark_read, 4)}


def test_a_row_is_whole_and_says_what_it_is_of(whole: Path) -> None:
    folder = row_folder(whole, ROW)
    pictures = [path for path in folder.rglob("*.png")]
    assert len(pictures) == 18
    assert {Image.open(path).size for path in pictures} == {(16, 16)}
    assert len({path.read_bytes() for path in pictures}) == 18
    row = json.loads((folder / "row.json").read_text())
    assert (row["from"], row["precision"], row["settings"]["steps"], row["seed"]) == ("bundle", "fp32", 2, 0)
    subject = json.loads((folder / "tabby" / "subject.json").read_text())
    assert subject["reference"] == "00.jpg"
    assert "background" in subject["background"]
    assert subject["prompts"][1] == "a cat wearing a red hat"


def test_what_is_there_is_not_made_again(
    bundles: tuple[Path, Path], benchmark_read: Benchmark, out: Path, whole: Path
) -> None:
    lost = row_folder(out, ROW) / "coffee" / "01-1.png"
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png") if path != lost}
    lost.unlink()
    assert make(bundles[0], benchmark_read, out) == 1
    assert make(bundles[0], benchmark_read, out) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert files(out) == files(whole)


def test_a_part_first_gives_the_same_pictures(
    bundles: tuple[Path, Path], dataset: Path, tmp_path: Path, whole: Path
) -> None:
    assert (
        make(
            bundles[0], read_benchmark(dataset, ["astronaut"], prompts=1), tmp_path, GenerationPlan(images=1)
        )
        == 1
    )
    assert make(bundles[0], read_benchmark(dataset, ["astronaut"]), tmp_path) == 5
    assert make(bundles[0], read_benchmark(dataset), tmp_path) == 12
    ours, theirs = files(tmp_path), files(whole)
    pictures = {name for name in theirs if name.endswith(".png")}
    assert {name: ours[name] for name in pictures} == {name: theirs[name] for name in pictures}


def test_another_reference_and_another_seed_give_other_pictures(
    bundles: tuple[Path, Path], dataset: Path, tmp_path: Path, whole: Path
) -> None:
    part = read_benchmark(dataset, ["coffee"], prompts=1)
    name = f"pictures/{ROW}/coffee/00-0.png"
    for folder, plan in (("a", GenerationPlan(1, seed=1)), ("b", GenerationPlan(1, reference_image=1))):
        make(bundles[0], part, tmp_path / folder, plan)
        assert files(tmp_path / folder)[name] != files(whole)[name]


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        (PLAN, {"steps": 3}, r"another settings\.steps \(2, now 3\)"),
        (PLAN, {"steps": 2, "guidance_scale": 1.5}, r"another settings\.guidance\.guidance_scale"),
        (GenerationPlan(2, seed=4), None, r"another seed \(0, now 4\)"),
        (GenerationPlan(2, reference_image=1), None, r"another reference_image \(0, now 1\)"),
    ],
)
def test_other_settings_are_never_mixed_in(
    bundles: tuple[Path, Path],
    benchmark_read: Benchmark,
    out: Path,
    plan: GenerationPlan,
    options: Options | None,
    message: str,
) -> None:
    before = files(out)
    with pytest.raises(BenchmarkError, match=message) as raised:
        make(bundles[0], benchmark_read, out, plan, options)
    assert "choose another --out" in str(raised.value)
    assert files(out) == before


def test_another_bundle_of_the_same_name_is_not_mixed_in(
    bundles: tuple[Path, Path], benchmark_read: Benchmark, out: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(bundles[1], tmp_path / ROW)
    with pytest.raises(BenchmarkError, match="made with another"):
        make(other, benchmark_read, out)


def test_other_prompts_or_photographs_are_never_mixed_in(
    bundles: tuple[Path, Path], own_dataset: Path, out: Path
) -> None:
    assert make(bundles[0], read_benchmark(own_dataset), out) == 0
    text = prompts_file().replace("floating on top of water", "in the snow")
    (own_dataset / PROMPTS_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(
        BenchmarkError, match=r'another prompt 1 .*"a cup floating on top of water", now "a cup in'
    ):
        make(bundles[0], read_benchmark(own_dataset), out)
    (own_dataset / PROMPTS_FILE).write_text(prompts_file(), encoding="utf-8")
    shutil.copy(own_dataset / "tabby" / "01.jpg", own_dataset / "tabby" / "00.jpg")
    with pytest.raises(BenchmarkError, match="another reference_sha256"):
        make(bundles[0], read_benchmark(own_dataset), out)


def test_a_setting_out_of_range_is_refused_before_anything_is_written(
    bundles: tuple[Path, Path], benchmark_read: Benchmark, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="step_cache"):
        make(bundles[0], benchmark_read, tmp_path, options={"step_cache": 1000})
    assert not list(tmp_path.iterdir())


def test_a_killed_run_continues_to_the_same_pictures(
    bundles: tuple[Path, Path], dataset: Path, tmp_path: Path
) -> None:
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    command = [sys.executable, "-m", "dreamcache.runtime.cli", "evaluate", "dreambooth", str(dataset)]
    command += ["--bundle", str(bundles[0]), "--out", str(killed), "--stage", "generate", "--steps", "150"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    folder = row_folder(killed, ROW)
    deadline = time.monotonic() + 120
    while len(list(folder.rglob("*.png"))) < 5 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.005)
    running.kill()
    _, said = running.communicate()
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert 5 <= len(made) < 36, said.decode()
    for path in made:
        Image.open(path).load()
    (folder / "tabby" / ".02-3.png.0a0b0c0d.part").write_bytes(b"half")
    benchmark, options, plan = read_benchmark(dataset), Options(steps=150, step_cache=1), GenerationPlan()
    assert make(bundles[0], benchmark, killed, plan, options) == 36 - len(made)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert make(bundles[0], benchmark, unbroken, plan, options) == 36
    assert files(killed) == files(unbroken)
    assert not [path for path in killed.rglob("*") if path.name.endswith(".part")]


def test_pytorch_draws_after_the_reference(
    tiny_base: Path, tiny_adapters: Path, dataset: Path, tmp_path: Path
) -> None:
    part = read_benchmark(dataset, ["coffee", "tabby"], prompts=1)
    generator = TorchGenerator(str(tiny_base), tiny_adapters, SamplingSettings(steps=2))
    assert generate_row(generator, part, GenerationPlan(images=1), tmp_path, quiet) == 2
    coffee, tabby = (np.asarray(Image.open(path)) for path in sorted(tmp_path.rglob("*.png")))
    assert coffee.shape == (32, 32, 3)
    row = json.loads((row_folder(tmp_path, "pytorch") / "row.json").read_text())
    assert len(row["fingerprints"]["base"]) == len(row["fingerprints"]["adapters"]) == 64
    other = generator.take(part.subjects[0].pictures[0], None)
    slot = next(slots(part, 1))
    same_seed = np.asarray(other.draw(slot.subject.prompts[0], [slot.seed(0)])[0])
    assert np.array_equal(same_seed, tabby)
    wrong = generator.take(part.subjects[1].pictures[0], None)
    assert not np.array_equal(np.asarray(wrong.draw(slot.subject.prompts[0], [slot.seed(0)])[0]), tabby)


def test_pictures_of_a_prompt_are_drawn_together_and_a_gap_is_filled_with_the_same_ones(
    tiny_base: Path, tiny_adapters: Path, dataset: Path, tmp_path: Path
) -> None:
    part, plan = read_benchmark(dataset, ["coffee"], prompts=2), GenerationPlan(images=3)

    def together(out: Path, batch: int) -> int:
        how = SamplingSettings(steps=2)
        return generate_row(
            TorchGenerator(str(tiny_base), tiny_adapters, how, 3, batch), part, plan, out, quiet
        )

    assert together(tmp_path / "one", 1) == together(tmp_path / "two", 2) == 6
    one, two = (files(row_folder(tmp_path / name, "pytorch")) for name in ("one", "two"))
    for name in (name for name in one if name.endswith(".png")):
        alone, beside = (np.asarray(Image.open(io.BytesIO(of[name])), np.int16) for of in (one, two))
        assert np.abs(alone - beside).max() <= 2, "only rounding differs"
    assert len({value for name, value in two.items() if name.endswith(".png")}) == 6
    (row_folder(tmp_path / "two", "pytorch") / "coffee" / "00-1.png").unlink()
    assert together(tmp_path / "two", 2) == 1
    assert files(row_folder(tmp_path / "two", "pytorch")) == two
    with pytest.raises(BenchmarkError, match=r"another batch \(null, now 2\)"):
        together(tmp_path / "one", 2)
