"""Reading what anybody may have written: regular files alone, of bounded size, and JSON without surprises."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

# Half of a pair that is one character in UTF-16, as an escape or by itself.
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The whole of a regular file; a pipe or device is not waited for.

    Raises: OSError when it cannot be read, ValueError when it is no regular file or larger than `most_bytes`.
    """
    # O_NONBLOCK: opening a named pipe would wait for a writer. Windows has neither.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a regular file")
        data = stream.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes >> 20} MiB")
    return data


def is_regular_file(path: Path) -> bool:
    """Whether a path leads to a regular file; what the system does not answer (a name too long, say) is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def utf8_path(path: Path) -> str:
    """A path as ONNX Runtime and tokenizers take it: the bytes of its name as UTF-8, whatever Python's own encoding is.

    Raises: ValueError for a name that is none.
    """
    try:
        return os.fsencode(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: a path in UTF-8 is expected, received another; rename the file or folder"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """JSON in which every key stands once, of which readers would disagree, and every text is one that can be written.

    Raises: ValueError, also for nesting that is too deep.
    """
    if isinstance(text, bytes):  # strictly, which `json` is not
        text = text.decode(json.detect_encoding(text))
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
        if _HALF.search(text) is not None:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text in it holds half a character") from error
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return found
