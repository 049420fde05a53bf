"""`dreamcache convert`: released adapters to safetensors, and pickles that want more than tensors."""

from __future__ import annotations

import ast
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from released_layout import as_released
from tiny_models import SD15_SHAPED, randomise_adapters, write_tiny_base

from dreamcache.export.convert import convert, read_released
from dreamcache.export.errors import ExportError
from dreamcache.export.source import Source
from dreamcache.models.bases.base import load_base
from dreamcache.models.checkpoint import adapter_state, load_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.runtime.errors import OutputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", name="base")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with Stable Diffusion's blocks, which the released layout counts."""
    return write_tiny_base(tmp_path_factory.mktemp("released") / "base", unet=SD15_SHAPED)


def test_a_released_file_becomes_adapters_of_the_base(base: Path, tmp_path: Path) -> None:
    model = randomise_adapters(ConditionedUNet(load_base(base).unet))
    torch.save(as_released(model), tmp_path / "cross_attention-199999.pt")
    out = tmp_path / "adapters.safetensors"
    convert(tmp_path / "cross_attention-199999.pt", str(base), out)
    loaded = load_adapters(out, load_base(base).unet)
    state = adapter_state(loaded)
    assert all(torch.equal(state[name], value) for name, value in adapter_state(model).items())
    source = Source.load(str(base), out)
    assert source.metadata["converted_from"] == "cross_attention-199999.pt"
    with pytest.raises(OutputError, match="exists"):
        convert(tmp_path / "cross_attention-199999.pt", str(base), out)
    other = write_tiny_base(tmp_path / "other", seed=5, unet=SD15_SHAPED)
    with pytest.raises(ExportError, match="belongs to the base"):
        Source.load(str(other), out)
    with pytest.raises(ExportError, match="converted once, with: dreamcache convert"):
        Source.load(str(base), tmp_path / "cross_attention-199999.pt")


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.target}'",)


def save_with_torch(value: Any, path: Path) -> None:
    torch.save(value, path)


def save_with_pickle(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("save", [save_with_torch, save_with_pickle])
def test_a_pickle_that_would_run_a_command_is_refused(
    tmp_path: Path, save: Callable[[Any, Path], None]
) -> None:
    target, path, out = tmp_path / "was here", tmp_path / "cross_attention.pt", tmp_path / "a.safetensors"
    save({"diffusion_model.middle_block.1.x": Evil(target)}, path)
    with pytest.raises(ExportError, match=r"refused: .*nothing of it was run") as raised:
        convert(path, "mini", out)
    assert "\n" not in str(raised.value)
    assert not target.exists()
    assert not out.exists()
    # The file is a real one: an unrestricted loader runs it.
    if save is save_with_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PyTorch file"),
        (b"garbage", "refused"),
        (b"PK\x03\x04 cut", "is not a PyTorch file"),
        (None, "no file at"),
    ],
)
def test_what_is_no_pytorch_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=message) as raised:
        read_released(path)
    assert "\n" not in str(raised.value)


def test_a_list_is_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "a.pt")
    with pytest.raises(ExportError, match="holds a list"):
        read_released(tmp_path / "a.pt")


def pickle_loads(source: str) -> list[str]:
    """Calls in a source file that can open a pickle."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [ast.unparse(call.func) for call in calls]
    return [name for name in names if name in ("torch.load", "pickle.load", "pickle.loads")]


def test_pickles_are_opened_by_this_command_alone() -> None:
    rooms = ("models", "export", "runtime", "training", "benchmarks")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    found = {
        path.relative_to(ROOT).as_posix(): calls
        for path in files
        if (calls := pickle_loads(path.read_text(encoding="utf-8")))
    }
    assert found == {"export/dreamcache/export/convert.py": ["torch.load"]}
    assert "weights_only=True" in (ROOT / "export/dreamcache/export/convert.py").read_text(encoding="utf-8")
    assert pickle_loads("x = torch.load('a')") == ["torch.load"]
