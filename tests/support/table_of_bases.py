"""Every altered base of the table in docs/findings/altered-bases.md, in its order."""

from __future__ import annotations

from altered_bases import AlteredBase, altered_bases
from joined_cases import joined_cases
from odd_folders import odd_folders
from odd_sampling import odd_sampling
from rare_bases import rare_bases
from remade_bases import remade_bases
from worn_bases import worn_bases


def table_of_bases() -> list[AlteredBase]:
    """All of them, those with graphs of their own last."""
    cases = [
        *altered_bases(),
        *worn_bases(),
        *rare_bases(),
        *odd_sampling(),
        *odd_folders(),
        *remade_bases(),
        *joined_cases(),
    ]
    return sorted(cases, key=lambda case: case.own_graphs)
