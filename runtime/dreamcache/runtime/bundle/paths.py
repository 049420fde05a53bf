"""Files that a contract may name: below the bundle's folder, whatever the system; with size and hash."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, NonNegativeInt, StringConstraints

from dreamcache.runtime.bundle.tensors import ContractModel


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
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(ContractModel):
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: NonNegativeInt
    sha256: Sha256
