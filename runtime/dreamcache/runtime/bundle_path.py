"""Paths that a contract may name: below the bundle's folder, whatever the system."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _check_relative(path: str) -> str:
    """A path below the bundle's folder, with forward slashes; anything else is refused."""
    unsafe = (
        "\\" in path
        or ":" in path
        or any(ord(character) < 32 for character in path)
        or any(part in ("", ".", "..") for part in path.split("/"))
    )
    if unsafe:
        raise ValueError(
            f"a path below the bundle is expected (no '..', absolute or back-slashed), received {path!r}"
        )
    return path


BundlePath = Annotated[str, AfterValidator(_check_relative)]
