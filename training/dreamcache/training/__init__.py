"""Training: adapters for a base of your own, the paper's synthetic data, the drawn world and the miniature.

from pathlib import Path
from dreamcache.training import Preset, TripletDataset, finetune

finetune("base-folder", TripletDataset(Path("references")), Path("run"), Preset(steps=1000))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dreamcache.runtime  # noqa: F401  (turns ONNX Runtime's telemetry off before anything here imports it)

if TYPE_CHECKING:
    from dreamcache.training.adapters.preset import Preset
    from dreamcache.training.adapters.run import finetune
    from dreamcache.training.data.shards.triplets import TripletDataset

__all__ = ["Preset", "TripletDataset", "finetune"]

# PyTorch, accelerate and webdataset load with the first use.
_HOMES = {
    "Preset": "dreamcache.training.adapters.preset",
    "TripletDataset": "dreamcache.training.data.shards.triplets",
    "finetune": "dreamcache.training.adapters.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
