"""Benchmarks: latency and memory of bundles, measured from outside the process that runs them.

from pathlib import Path
from dreamcache.benchmarks import read_record

print(read_record(Path("b8.json")).metrics.step_ms_p50)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dreamcache.runtime  # noqa: F401  (turns ONNX Runtime's telemetry off before anything here imports it)

if TYPE_CHECKING:
    from dreamcache.benchmarks.protocol.measure import bench
    from dreamcache.benchmarks.record import read_record

__all__ = ["bench", "read_record"]

# Importing the package stays cheap: numpy and pydantic load with the first use.
_HOMES = {"bench": "dreamcache.benchmarks.protocol.measure", "read_record": "dreamcache.benchmarks.record"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
