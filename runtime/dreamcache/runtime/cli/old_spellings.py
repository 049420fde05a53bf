"""Groups of commands that answer an old spelling in one line with the new one."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class RenamedGroup(TyperGroup):
    """A group whose commands were spelled otherwise once; a subclass knows how."""

    def answer(self, arguments: list[str]) -> str | None:
        """The line for an old spelling; None for arguments that the group takes."""
        raise NotImplementedError

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave with status 2 after one line for an old spelling."""
        if (line := self.answer(args)) is not None:
            typer.echo(f"dreamcache: {line}", err=True)
            ctx.exit(2)
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed
