"""Imports run one way, one namespace without a root, a runner without frameworks; the shape is in test_house.py."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each room and the rooms of ours that it may import.
ARROWS: dict[str, set[str]] = {
    "models": set(),
    "runtime": set(),
    "training": {"models", "runtime"},
    "export": {"models", "runtime"},
    "benchmarks": {"runtime"},
}
TORCH_FREE = ("runtime", "benchmarks")
# Scripts that are not installed and may import all of ours; nothing of ours imports them.
SCRIPTS = "benchmarks/peers"
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "optimum"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(source: str) -> Iterator[str]:
    """Every module that a file imports by name, wherever in the file and in whichever way."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            # `from dreamcache import runtime` names the room after the "import".
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def forbidden(room: str, source: str) -> list[str]:
    """The imports of a file in `room` that the arrows do not allow."""
    found = []
    for name in imported(source):
        parts = name.split(".")
        if parts[0] == "dreamcache":
            if parts[1] != room and parts[1] not in ARROWS[room]:
                found.append(name)
        elif parts[0] == Path(SCRIPTS).name or (room in TORCH_FREE and parts[0] in HEAVY):
            found.append(name)
    return found


@pytest.mark.parametrize("room", ARROWS)
def test_imports_run_one_way(room: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in sources(room)
        if not path.is_relative_to(ROOT / SCRIPTS)
        if (names := forbidden(room, path.read_text(encoding="utf-8")))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("runtime", "def run():\n    import torch.nn"),
        ("runtime", "from diffusers import DDIMScheduler"),
        ("benchmarks", "import transformers"),
        ("models", "from dreamcache.runtime.errors import ImageError"),
        ("models", "from dreamcache import training"),
        ("runtime", "from dreamcache.models.walk.sites import find_sites"),
        ("training", "import dreamcache.export.modules.unet"),
        ("benchmarks", "import importlib\nimportlib.import_module('dreamcache.export')"),
        ("benchmarks", "from peers.job import Job"),
    ],
)
def test_a_wrong_arrow_is_noticed(room: str, source: str) -> None:
    assert len(forbidden(room, source)) == 1
    assert forbidden("export", "import torch\nfrom dreamcache.models import sites") == []


def test_the_namespace_has_no_root() -> None:
    assert [str(path) for room in ARROWS for path in (ROOT / room).glob("dreamcache/__init__.py")] == []


def test_each_room_that_holds_code_is_a_package() -> None:
    for room in ARROWS:
        if sources(room):
            assert (ROOT / room / "dreamcache" / room / "__init__.py").is_file(), room


def test_files_say_what_they_are_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(*ARROWS, "tests")
        if (text := path.read_text(encoding="utf-8")).strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []


def test_the_runtime_imports_without_the_frameworks() -> None:
    modules = [
        ".".join(path.relative_to(ROOT / "runtime").with_suffix("").parts).removesuffix(".__init__")
        for path in sources("runtime")
        if path.name != "__main__.py"  # runs the command line when it is imported
    ]
    program = "import sys, importlib\n"
    program += f"sys.modules.update(dict.fromkeys({sorted(HEAVY)!r}))\n"
    program += f"for name in {modules!r}: importlib.import_module(name)\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "runtime")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [sys.executable, "-c", program + "import torch"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode != 0
