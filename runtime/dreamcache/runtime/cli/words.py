"""Words on stdout and stderr, which never end a command: what was made is written, whoever reads along.

A reader that has gone (`| head -1`) and a full disk are passed over; a character that the terminal's encoding lacks
is shown as its escape.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamcache.runtime.errors import printable

if TYPE_CHECKING:
    from rich.text import Text


def shown(text: str) -> str:
    """Lines in which a name, out of a bundle or of a file, sends no command to the terminal."""
    return "\n".join(map(printable, text.split("\n")))


def cell(text: str) -> Text:
    """The same for a table of rich, whose markup a name is not."""
    from rich.text import Text

    return Text(shown(text))


def as_json(value: Any) -> str:
    """JSON in several lines, letters as they are, and what a terminal does not print escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class ForgivingStream:
    """A text stream whose words may be lost, but raise nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write as much as can be written; returns the length of the text."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush, if there is still somebody to read."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Send this and what follows nowhere; the interpreter flushes the stream once more when it ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_words() -> Iterator[None]:
    """Within the block, stdout and stderr forgive."""
    before = sys.stdout, sys.stderr  # a program without a console has neither
    nowhere = Path(os.devnull).open("w", encoding="utf-8") if None in before else None  # noqa: SIM115
    sys.stdout, sys.stderr = (ForgivingStream(stream or nowhere) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before
        if nowhere is not None:
            nowhere.close()
