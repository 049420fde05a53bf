"""DreamCache in PyTorch: a base, its adapters, caching, guidance, and the reference pipeline.

from dreamcache.models import DreamCachePipeline
from dreamcache.runtime.reference.prepare import prepare_reference

pipe = DreamCachePipeline.load("mini")
cache = pipe.cache(prepare_reference("toy.png", size=pipe.resolution).image)
(image,) = pipe.generate("a robot on the beach", cache, steps=20, seed=7)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamcache.models.attached import attach
    from dreamcache.models.bases.base import load_base
    from dreamcache.models.checkpoint import load_adapters, save_adapters
    from dreamcache.models.conditioned import ConditionedUNet
    from dreamcache.models.config import AdapterConfig
    from dreamcache.models.pipeline import DreamCachePipeline

__all__ = [
    "AdapterConfig",
    "ConditionedUNet",
    "DreamCachePipeline",
    "attach",
    "load_adapters",
    "load_base",
    "save_adapters",
]

# PyTorch and diffusers load with the first use.
_HOMES = {
    "AdapterConfig": "dreamcache.models.config",
    "ConditionedUNet": "dreamcache.models.conditioned",
    "DreamCachePipeline": "dreamcache.models.pipeline",
    "attach": "dreamcache.models.attached",
    "load_adapters": "dreamcache.models.checkpoint",
    "load_base": "dreamcache.models.bases.base",
    "save_adapters": "dreamcache.models.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
