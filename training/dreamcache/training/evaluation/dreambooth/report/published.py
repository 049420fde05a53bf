"""Scores that papers report on the same benchmark."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of a paper. base: the model it builds on. source: where it is printed."""

    method: str
    base: str
    dino: float
    clip_i: float
    clip_t: float | None
    source: str


_DREAMCACHE = "arXiv 2411.17786"

PUBLISHED = (
    Published("DreamCache", "SD 1.5", 0.713, 0.810, 0.298, _DREAMCACHE),
    Published("DreamCache", "SD 2.1", 0.767, 0.816, 0.301, _DREAMCACHE),
    Published("Kosmos-G", "SD 1.5", 0.694, 0.847, 0.287, _DREAMCACHE),
    Published("IP-Adapter", "SD 1.5", 0.667, 0.813, 0.289, _DREAMCACHE),
    Published("BLIP-Diffusion", "SD 1.5", 0.594, 0.779, 0.300, _DREAMCACHE),
    Published("DreamBooth (fine-tuned)", "SD 1.5", 0.668, 0.803, 0.305, _DREAMCACHE),
    Published("real photographs", "", 0.774, 0.885, None, "arXiv 2208.12242, table 1"),
)
