"""Errors of the export room that a user can cause and mend."""

from __future__ import annotations

from dreamcache.runtime.errors import DreamCacheError


class ExportError(DreamCacheError, RuntimeError):
    """The export cannot be made, or does not compute what PyTorch does; nothing was left behind."""
