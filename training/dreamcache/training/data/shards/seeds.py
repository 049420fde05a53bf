"""Keys of samples and the seeds that follow from them, so that a shard can be made again to the same bytes."""

from __future__ import annotations

import hashlib


def sample_key(number: int) -> str:
    """The key of sample `number` of a run: digits alone, for WebDataset cuts names at the first dot."""
    return f"{number:09d}"


def derive_seed(seed: int, key: str, purpose: str) -> int:
    """A seed in 0 … 2⁶³ − 1 that depends on all three; whoever draws, and in whatever order, gets the same."""
    digest = hashlib.sha256(f"{seed}/{key}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
