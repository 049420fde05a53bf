"""The shape of the house: no circles, small folders and files, one name for one thing (docs/scripts/house.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from house import ROOTS, House, python_files
from import_graph import circles, floors

ROOT = Path(__file__).resolve().parents[1]


@cache
def repository() -> House:
    """This one, read once."""
    return House(ROOT)


MOST_LINES, MOST_FUNCTION_LINES, MOST_ROOMS = 300, 80, 12
# The top of a root, and the longest chain of imports among its rooms.
BARS = {"runtime": (16, 9), "export": (18, 8), "training": (11, 6)}
VAGUE = {
    *("utils", "util", "helpers", "helper", "misc", "common", "stuff", "shared"),
    *("twins", "borders", "sides", "layouts", "watching", "unfinished", "declarations", "choices"),
}
# Public names that are defined more than once, and why they may be.
SAME_NAME = {
    "main": "what `python -m` runs in a module",
}
# How tests reach past the path that pytest sets up.
SMUGGLING = re.compile(r"sys\.path\.(?:insert|append)|spec_from_file_location")

Rule = Callable[[House], Iterator[str]]


def no_circle_of_files(house: House) -> Iterator[str]:
    yield from (" ↔ ".join(group) for group in circles(house.arrows))


def no_circle_of_rooms(house: House) -> Iterator[str]:
    for folder, arrows in house.folders.items():
        yield from (f"{folder}: {' ↔ '.join(group)}" for group in circles(arrows))


def small_folders(house: House) -> Iterator[str]:
    for folder, arrows in house.folders.items():
        most = BARS.get(folder.removeprefix("dreamcache."), (MOST_ROOMS,))[0]
        if len(arrows) > most:
            yield f"{folder}: {len(arrows)} modules"


def few_floors(house: House) -> Iterator[str]:
    for root, (_, most) in BARS.items():
        if (found := floors(house.folders.get(f"dreamcache.{root}", {}))) > most:
            yield f"{root}: {found} floors"


def short_files(house: House) -> Iterator[str]:
    files = python_files(house.top, *ROOTS, "docs", "tests")
    yield from (f"{file.name}: {file.lines} lines" for file in files if file.lines > MOST_LINES)


def short_functions(house: House) -> Iterator[str]:
    for file in python_files(house.top, *ROOTS, "docs", "tests"):
        yield from file.long_functions(MOST_FUNCTION_LINES)


def one_name_for_one_thing(house: House) -> Iterator[str]:
    for name, places in house.homonyms().items():
        if name not in SAME_NAME:
            yield f"{name}: {', '.join(places)}"


def telling_names(house: House) -> Iterator[str]:
    for module in house.modules.values():
        names = [module.name.rpartition(".")[2], *module.definitions()]
        yield from (f"{module.name}: {name}" for name in names if name.lower() in VAGUE)


def helpers_of_tests_in_one_place(house: House) -> Iterator[str]:
    for file in python_files(house.top, "tests"):
        kept = file.name.startswith("tests/support/") or file.path.name in ("conftest.py", "__main__.py")
        if not kept and not file.path.name.startswith("test_"):
            yield f"{file.name}: a helper outside tests/support"
        if file.path != Path(__file__) and SMUGGLING.search(file.text):
            yield f"{file.name}: a path of its own"


RULES: tuple[Rule, ...] = (
    no_circle_of_files,
    no_circle_of_rooms,
    small_folders,
    few_floors,
    short_files,
    short_functions,
    one_name_for_one_thing,
    telling_names,
    helpers_of_tests_in_one_place,
)
# What is left to do; each goes with the last breach.
PENDING: dict[Rule, str] = {}


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(
            rule,
            id=rule.__name__,
            marks=[pytest.mark.xfail(strict=True, reason=PENDING[rule])] if rule in PENDING else [],
        )
        for rule in RULES
    ],
)
def test_the_house_keeps(rule: Rule) -> None:
    assert list(rule(repository())) == []


def test_every_exception_is_needed() -> None:
    assert set(SAME_NAME) - set(repository().homonyms()) == set()


def folders_named(page: str, root: str) -> set[str]:
    """What the map of CONTRIBUTING.md names as a root's folders."""
    (cell,) = re.findall(rf"^\| `{root}/` \|.*\| (.*) \|$", page, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize("root", ROOTS)
def test_the_map_names_the_folders(root: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = repository().folders
    packages = {room for room in folders[f"dreamcache.{root}"] if f"dreamcache.{root}.{room}" in folders}
    assert folders_named(page, root) == packages
    assert folders_named(page.replace("`cli`", "`attic`"), "runtime") >= {"attic", "bundle"}


def build(top: Path, **files: str) -> House:
    """A made-up repository; `a__b` is the file runtime/dreamcache/runtime/a/b.py."""
    for name, text in files.items():
        path = top / "runtime/dreamcache/runtime" / f"{name.replace('__', '/')}.py"
        for folder in [path.parent, *path.parent.parents]:
            if not folder.is_relative_to(top / "runtime/dreamcache/runtime"):
                break
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "__init__.py").touch()
        path.write_text(text)
    return House(top)


OF_RUNTIME = "from dreamcache.runtime"
LATE = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {OF_RUNTIME}.a.one import x\n"


@pytest.mark.parametrize(
    ("rule", "files", "breach"),
    [
        (
            no_circle_of_files,
            {"one": f"def late():\n    {OF_RUNTIME} import two\n", "two": f"{OF_RUNTIME}.one import late\n"},
            "dreamcache.runtime.one ↔ dreamcache.runtime.two",
        ),
        (
            no_circle_of_rooms,
            {"a__one": f"{OF_RUNTIME}.b.one import y\n", "b__one": "", "b__two": LATE},
            "dreamcache.runtime: a ↔ b",
        ),
        (small_folders, {f"a__m{i}": "" for i in range(13)}, "dreamcache.runtime.a: 13 modules"),
        (small_folders, {f"m{i}": "" for i in range(17)}, "dreamcache.runtime: 17 modules"),
        (
            few_floors,
            {f"m{i}": f"{OF_RUNTIME} import m{i + 1}\n" for i in range(9)} | {"m9": ""},
            "runtime: 10 floors",
        ),
        (short_files, {"one": "\n" * 301}, "runtime/dreamcache/runtime/one.py: 301 lines"),
        (
            short_functions,
            {"one": "class A:\n    def f(self):\n" + 80 * "        ...\n"},
            "runtime/dreamcache/runtime/one.py.f (81)",
        ),
        (
            one_name_for_one_thing,
            {
                "one": "class Progress: ...\n",
                "two": "class Progress: ...\ndef _f(): ...\n",
                "three": "def _f(): ...\n",
            },
            "Progress: dreamcache.runtime.one, dreamcache.runtime.two",
        ),
        (telling_names, {"a__utils": ""}, "dreamcache.runtime.a.utils: utils"),
        (telling_names, {"one": "class Helper: ...\n"}, "dreamcache.runtime.one: Helper"),
    ],
)
def test_a_breach_is_noticed(rule: Rule, files: dict[str, str], breach: str, tmp_path: Path) -> None:
    assert list(rule(build(tmp_path, **files))) == [breach]


@pytest.mark.parametrize("rule", RULES)
def test_a_house_in_order_breaks_no_rule(rule: Rule, tmp_path: Path) -> None:
    files = {f"m{i}": f"{OF_RUNTIME} import m{i + 1}\n" for i in range(8)} | {"m8": "\n" * 300}
    files |= {f"a__m{i}": "def main(): ...\n" for i in range(12)}
    house = build(tmp_path, **files, cli__one="def f():\n" + 79 * "    ...\n")
    (tmp_path / "tests/support").mkdir(parents=True)
    (tmp_path / "tests/support/tiny.py").write_text("import sys\n")
    assert list(rule(house)) == []


def test_a_helper_among_the_tests_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/tiny.py").touch()
    (tmp_path / "tests/test_one.py").write_text("import sys\nsys.path" + ".insert(0, 'x')\n")
    assert list(helpers_of_tests_in_one_place(House(tmp_path))) == [
        "tests/test_one.py: a path of its own",
        "tests/tiny.py: a helper outside tests/support",
    ]
