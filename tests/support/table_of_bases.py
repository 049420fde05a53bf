"""Every altered base of the table in docs/findings/altered-bases.md, in its order."""

from __future__ import annotations

from altered_bases import AlteredBase, altered_bases
from rare_bases import rare_bases
from worn_bases import worn_bases


def table_of_bases() -> list[AlteredBase]:
    """All of them, those with graphs of their own last."""
    cases = [*altered_bases(), *worn_bases(), *rare_bases()]
    return sorted(cases, key=lambda case: case.own_graphs)
