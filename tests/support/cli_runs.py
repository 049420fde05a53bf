"""Commands run in this process, as a shell would call them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.runtime.cli import main as cli


def run(*arguments: object) -> int:
    """The status that a command leaves with."""
    with pytest.raises(SystemExit) as left:
        cli.main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def drawing(bundle: Path, toy: Path, *more: object) -> tuple[object, ...]:
    """`generate` in one step, of a reference picture."""
    return ("generate", bundle, "--prompt", "a robot", "--reference", toy, "--steps", 1, "--seed", 5, *more)
