"""Errors of the training room that a user can cause and mend."""

from __future__ import annotations

from dreamcache.runtime.errors import DreamCacheError


class CheckpointError(DreamCacheError, ValueError):
    """A run's checkpoint is damaged, or holds the state of other weights."""
