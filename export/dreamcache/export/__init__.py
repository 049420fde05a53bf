"""From PyTorch to a bundle: ONNX graphs, one shared weights file, parity gates, the contract.

from dreamcache.export import OnnxOptions, Source, export_bundle

source = Source.load("base-folder", "adapters.safetensors")
export_bundle(source, "bundle", onnx=OnnxOptions(precision="int8"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dreamcache.runtime  # noqa: F401  (turns ONNX Runtime's telemetry off before anything here imports it)

if TYPE_CHECKING:
    from dreamcache.export.bundle import export_bundle
    from dreamcache.export.options import CoreMLOptions, OnnxOptions
    from dreamcache.export.source import Source

__all__ = ["CoreMLOptions", "OnnxOptions", "Source", "export_bundle"]

# PyTorch, diffusers and onnx load with the first use.
_HOMES = {
    "CoreMLOptions": "dreamcache.export.options",
    "OnnxOptions": "dreamcache.export.options",
    "Source": "dreamcache.export.source",
    "export_bundle": "dreamcache.export.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
