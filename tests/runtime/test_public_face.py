"""What `dreamcache.runtime` names: all of it is there, it loads with the first use, and importing it is cheap."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

import dreamcache.runtime as runtime
from dreamcache.runtime.errors import DreamCacheError

ERRORS = {"BundleError", "DreamCacheError", "ImageError", "OutputError", "SettingsError", "SubjectError"}
HEAVY = ("torch", "onnxruntime", "numpy", "pydantic", "tokenizers", "PIL", "rich", "typer")


def test_every_name_loads_and_is_listed() -> None:
    assert set(runtime.__all__) == {"Pipeline", "Subject", *ERRORS}
    assert set(runtime.__all__) <= set(dir(runtime))
    for name in runtime.__all__:
        assert getattr(runtime, name).__name__ == name
    assert all(issubclass(getattr(runtime, name), DreamCacheError) for name in ERRORS)
    with pytest.raises(AttributeError, match="Bundel"):
        _ = runtime.Bundel


def test_importing_it_is_cheap() -> None:
    program = f"""
import sys
import dreamcache.runtime as runtime
dir(runtime), runtime.BundleError
print([name for name in {HEAVY!r} if name in sys.modules])
runtime.Subject
print("numpy" in sys.modules, "onnxruntime" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\nTrue False\n"


def test_importing_it_takes_less_than_half_a_second() -> None:
    def seconds(statement: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - begin

    assert min(seconds("import dreamcache.runtime") for _ in range(3)) < 0.5 + min(
        seconds("pass") for _ in range(3)
    )
