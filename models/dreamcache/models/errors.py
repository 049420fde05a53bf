"""Errors of the model room that a user can cause and mend."""

from __future__ import annotations


class AdapterError(ValueError):
    """Adapters, or a base model, that cannot be used: the message says expected, received and the mend."""
