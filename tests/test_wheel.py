"""The built wheel, installed alone: the runner without PyTorch, small, and able to draw."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
MAX_INSTALLED_MB = 280
MAX_WHEEL_MB = 90
# Weights of the shipped miniature are not part of that budget.
WEIGHTS = {".safetensors", ".data"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of an environment that holds the wheel and its dependencies alone."""
    folder = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)], folder)
    (wheel,) = (folder / "dist").glob("dreamcache-*.whl")
    venv.create(folder / "env", with_pip=True)
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    _run([str(scripts / "python"), "-m", "pip", "install", "--quiet", str(wheel)], folder)
    return scripts


def test_neither_torch_nor_its_company_is_there(installed: Path) -> None:
    program = (
        "from importlib.util import find_spec\n"
        "print([n for n in ('torch', 'transformers', 'diffusers', 'onnx', 'numpy') if find_spec(n)])"
    )
    assert _run([str(installed / "python"), "-c", program], installed).strip() == "['numpy']"


def test_the_installation_is_small(installed: Path) -> None:
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(_run([str(installed / "python"), "-c", program], installed).strip())
    files = [path for path in packages.rglob("*") if path.is_file() and not path.is_symlink()]
    counted = [
        path for path in files if path.relative_to(packages).parts[0] != "pip" and path.suffix not in WEIGHTS
    ]
    size_mb = sum(path.stat().st_size for path in counted) / 1e6
    assert 20 < size_mb < MAX_INSTALLED_MB
    assert (packages / "dreamcache/runtime/py.typed").is_file()
    for name in ("page/index.html", "page/sampling/schedulers/index.mjs", "javascript/package-lock.json"):
        assert (packages / "dreamcache/runtime/web" / name).is_file()
    assert not (packages / "dreamcache/__init__.py").exists()


def test_the_console_script_draws(installed: Path, tmp_path: Path) -> None:
    bundle, toy, out = tmp_path / "bundle", tmp_path / "toy.png", tmp_path / "out.png"
    builder = ROOT / "tests/support/tiny_bundle.py"
    _run([sys.executable, str(builder), str(bundle)], ROOT, environment=dict(os.environ))
    image = Image.new("RGB", (40, 40), "white")
    ImageDraw.Draw(image).ellipse((8, 8, 32, 32), fill="red")
    image.save(toy)
    script = str(installed / "dreamcache")
    assert _run([script, "--version"], tmp_path).strip() == "0.2.0"
    _run([script, "verify", str(bundle)], tmp_path)
    command = [
        script,
        "generate",
        str(bundle),
        "--prompt",
        "a robot",
        "--reference",
        str(toy),
        "--steps",
        "2",
    ]
    _run([*command, "--out", str(out)], tmp_path)
    assert Image.open(out).size == (16, 16)


def test_the_wheel_is_small_and_its_own_bundle_draws(installed: Path, tmp_path: Path) -> None:
    (wheel,) = (installed.parents[1] / "dist").glob("dreamcache-*.whl")
    assert 10 < wheel.stat().st_size / 1e6 <= MAX_WHEEL_MB
    scene, out = tmp_path / "scene.png", tmp_path / "out.png"
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((16, 16, 48, 48), fill="red")
    image.save(scene)
    command = [str(installed / "dreamcache"), "generate", "mini", "--prompt", "a toy robot on the beach"]
    _run([*command, "--reference", str(scene), "--steps", "2", "--out", str(out)], tmp_path)
    program = "from dreamcache.runtime import Pipeline; told = Pipeline.load('mini').contract; "
    program += "print(told.precision, told.architecture.image_width, told.architecture.image_height)"
    precision, *size = _run([str(installed / "python"), "-c", program], tmp_path).split()
    assert precision == "int8"
    assert Image.open(out).size == tuple(map(int, size))


def test_a_command_without_its_extra_says_which(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "dreamcache"), "export", "--base", "mini", "--out", str(tmp_path / "bundle")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=_bare(), cwd=tmp_path)
    assert result.returncode == 1
    assert 'pip install "dreamcache[export]"' in result.stderr
    assert result.stderr.count("\n") == 1


def _bare() -> dict[str, str]:
    """The environment without what would let the repository itself be found."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=_bare() if environment is None else environment,
        cwd=folder,
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout
