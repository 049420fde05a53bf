"""Errors that a user can mend, as a small hierarchy.

Every error is one line that says what was expected, what was received and what would mend it. Each
also derives from the matching builtin, so callers that know nothing of this package can catch it.
"""

from __future__ import annotations


class DreamCacheError(Exception):
    """Base of everything a user can mend; the command line prints it without a traceback.

    Names out of files may hold anything, an escape sequence for a terminal among it: its text shows them escaped.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class BundleError(DreamCacheError, ValueError):
    """The bundle is incomplete, damaged, unsafe, too new, or not what its contract says."""


class SubjectError(DreamCacheError, ValueError):
    """The subject file is damaged or belongs to another bundle."""


class ImageError(DreamCacheError, ValueError):
    """The picture or mask is missing, broken, too large or in an unsupported format."""


class SettingsError(DreamCacheError, ValueError):
    """A setting (steps, scale, provider, scheduler …) is outside its range or not available."""


class OutputError(DreamCacheError, OSError):
    """The output exists already or cannot be written."""


def printable(text: str) -> str:
    """The text with every character that a terminal does not print as its Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """First line of an error's text, or the name of its class when it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
