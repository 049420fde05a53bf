"""How many UNet calls one picture takes, by the runner's own guidance and step caching."""

from __future__ import annotations

from dreamcache.runtime.sampling.guidance import Branch
from dreamcache.runtime.settings import Settings


def unet_calls(settings: Settings, batch: int) -> tuple[int, int]:
    """Calls of the whole denoiser and of the shallow graph for one picture of a cached subject.

    Branches fill the graph's batch. The whole denoiser runs at every `step_cache` steps, and where guidance takes up a
    branch whose deep features are not there.
    """
    whole = shallow = 0
    known: set[Branch] = set()
    for step in range(settings.steps):
        branches = settings.guidance.branches_at(step, settings.steps, has_reference=True)
        calls = -(-len(branches) // batch)
        if step % settings.step_cache == 0 or not known.issuperset(branches):
            known = set(branches)
            whole += calls
        else:
            shallow += calls
    return whole, shallow
