"""Reading the benchmark's folder: the true layout, parts of it, and one line for what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_metrics import prompts_file

from dreamcache.runtime.errors import DreamCacheError
from dreamcache.training.errors import BenchmarkError
from dreamcache.training.evaluation.dreambooth.benchmark import (
    PROMPTS_FILE,
    fill,
    parse_prompts,
    read_benchmark,
)


def test_subjects_photographs_and_prompts(dataset: Path) -> None:
    benchmark = read_benchmark(dataset)
    assert [(one.name, one.class_name) for one in benchmark.subjects] == [
        ("tabby", "cat"),
        ("coffee", "cup"),
        ("astronaut", "toy"),
    ]
    tabby, coffee, _ = benchmark.subjects
    assert [path.name for path in tabby.pictures] == ["00.jpg", "01.jpg", "02.jpg"]
    assert tabby.prompts == ("a cat in the jungle", "a cat wearing a red hat", "a red cat")
    assert coffee.prompts == ("a cup in the jungle", "a cup floating on top of water", "a red cup")
    assert benchmark.listed == 3
    assert not benchmark.is_whole


@pytest.mark.parametrize(
    ("template", "class_name", "prompt"),
    [
        ("a {0} {1} in the snow", "stuffed animal", "a stuffed animal in the snow"),
        ("a cube shaped {0} {1}", "dog", "a cube shaped dog"),
        ("{1}", "a {0} b", "a {0} b"),
        ("a {0.__class__} {1}", "dog", "a {0.__class__} dog"),
    ],
)
def test_the_unique_token_is_dropped_and_nothing_is_evaluated(
    template: str, class_name: str, prompt: str
) -> None:
    assert fill(template, class_name) == prompt


def test_a_part_of_it(dataset: Path) -> None:
    part = read_benchmark(dataset, ["coffee"], prompts=2)
    assert [(one.name, len(one.prompts)) for one in part.subjects] == [("coffee", 2)]
    assert part.listed == 3


def test_the_repository_holds_the_dataset_folder(dataset: Path) -> None:
    assert read_benchmark(dataset.parent) == read_benchmark(dataset)


def test_the_published_size_is_recognised(own_dataset: Path) -> None:
    names = {f"s{i}": "dog" for i in range(30)}
    for name in names:
        shutil.copytree(own_dataset / "tabby", own_dataset / name)
    text = prompts_file(names)
    many = "".join(f"'a {{0}} {{1}} number {i}'.format(unique_token, class_token),\n" for i in range(22))
    text = text.replace("prompt_list = [\n", f"prompt_list = [\n{many}")
    (own_dataset / PROMPTS_FILE).write_text(text, encoding="utf-8")
    assert read_benchmark(own_dataset).is_whole
    assert not read_benchmark(own_dataset, prompts=24).is_whole


def test_what_is_no_photograph_is_left_out(own_dataset: Path) -> None:
    (own_dataset / "tabby" / "._00.jpg").write_bytes(b"x")
    (own_dataset / "tabby" / "notes.txt").write_bytes(b"x")
    (own_dataset / "tabby" / "10.PNG").write_bytes(b"x")
    (tabby,) = read_benchmark(own_dataset, ["tabby"]).subjects
    assert [path.name for path in tabby.pictures] == ["00.jpg", "01.jpg", "02.jpg", "10.PNG"]


def test_missing_subjects_are_all_named(own_dataset: Path) -> None:
    shutil.rmtree(own_dataset / "tabby")
    for picture in (own_dataset / "astronaut").iterdir():
        picture.unlink()
    with pytest.raises(BenchmarkError, match=r"2 of its 3 subjects: tabby, astronaut; fetch .*--subject"):
        read_benchmark(own_dataset)
    assert [one.name for one in read_benchmark(own_dataset, ["coffee"]).subjects] == ["coffee"]


def test_a_reference_that_a_subject_lacks_is_named(own_dataset: Path) -> None:
    (own_dataset / "coffee" / "02.jpg").unlink()
    assert read_benchmark(own_dataset, reference_image=1)
    with pytest.raises(BenchmarkError, match="coffee has photographs 0 to 1"):
        read_benchmark(own_dataset, reference_image=2)


def test_an_unknown_subject_is_named(dataset: Path) -> None:
    with pytest.raises(BenchmarkError, match="does not list dog9; it lists tabby, coffee, astronaut"):
        read_benchmark(dataset, ["dog9", "coffee"])


def test_a_folder_without_the_prompts_file(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"no prompts_and_classes\.txt.*git clone"):
        read_benchmark(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("subject_name,class", "subject;class", "a table that begins with"),
        ("tabby,cat", "../tabby,cat", r"'teapot,teapot' is expected, received '\.\./tabby,cat'"),
        ("tabby,cat", "tabby,", "received 'tabby,'"),
        ("tabby,cat", "coffee,cat", "each listed once"),
        ("Live Subject Prompts", "Live", "below 'Live Subject Prompts', none is there"),
        ("{1}", "{2}", "below 'Object Prompts', none is there"),
    ],
)
def test_another_file_is_refused_in_one_line(old: str, new: str, message: str) -> None:
    parse_prompts(prompts_file())
    with pytest.raises(BenchmarkError, match=message) as raised:
        parse_prompts(prompts_file().replace(old, new))
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, DreamCacheError)
