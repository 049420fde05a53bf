"""Errors of the models that a user can cause and mend."""

from __future__ import annotations


class AdapterError(ValueError):
    """Adapters, or a base model, that cannot be used: the message says expected, received and the mend."""


class BaseWarning(UserWarning):
    """Something that a file says of itself and that is left aside."""


def reason(error: BaseException) -> str:
    """First line of an error's text, or the name of its class when it has none (as the runner's `first_line`)."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
