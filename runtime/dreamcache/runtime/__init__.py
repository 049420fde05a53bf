"""Bundle to pictures: the runner, which knows numpy and ONNX Runtime but no PyTorch.

from dreamcache.runtime import Pipeline

pipe = Pipeline.load("bundle")
subject = pipe.cache("toy.png")
image = pipe.generate("a robot on the beach", subject, steps=20, seed=7)
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# ONNX Runtime reports to its maker unless this stands before its first import; disable_telemetry_events() comes late.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from dreamcache.runtime.errors import (
        BundleError,
        DreamCacheError,
        ImageError,
        OutputError,
        SettingsError,
        SubjectError,
    )
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.subject import Subject

__all__ = [
    "BundleError",
    "DreamCacheError",
    "ImageError",
    "OutputError",
    "Pipeline",
    "SettingsError",
    "Subject",
    "SubjectError",
]

# Importing the package stays cheap: onnxruntime, pydantic and tokenizers load with the first use.
_HOMES = {"Pipeline": "pipeline", "Subject": "subject"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
