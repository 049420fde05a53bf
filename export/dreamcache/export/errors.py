"""Errors of the export room that a user can cause and mend."""

from __future__ import annotations

from collections.abc import Sequence

from dreamcache.runtime.errors import DreamCacheError


class ExportError(DreamCacheError, RuntimeError):
    """The export cannot be made, or does not compute what PyTorch does; nothing was left behind."""


def refuse_unknown(option: str, value: str, known: Sequence[str]) -> None:
    """Raises: ExportError unless `value` is one of `known`."""
    if value not in known:
        raise ExportError(f"{option} {value} is not exported by this version; choose {' or '.join(known)}")
