"""Budgets of memory: reading them, and searching for the smallest that passes."""

from __future__ import annotations

import re
from collections.abc import Callable

from dreamcache.benchmarks.process.sampler import MB
from dreamcache.runtime.errors import SettingsError

_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "KI": 2.0**10, "MI": 2.0**20, "GI": 2.0**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(|[KMG]|[KMG]I)B?", re.IGNORECASE)


def parse_budget_mb(text: str) -> float:
    """ "600M" and "0.6GB" are 600 MB of 10⁶ bytes, "600Mi" is 629.1.

    Raises: SettingsError for anything else, and for nothing at all.
    """
    found = _SIZE.fullmatch(text.strip())
    size = 0.0 if found is None else float(found[1]) * _UNITS[found[2].upper()]
    if size <= 0:
        raise SettingsError(f"--budget: a size such as 600M, 1.5G or 512Mi is expected, received {text!r}")
    return size / MB


def smallest_passing(passes: Callable[[float], bool], fails: float, passed: float, precision: float) -> float:
    """The smallest value known to pass, to within `precision`, between one that fails and one that passed.

    Every value returned was run: `passed` itself, or a smaller one for which `passes` said so.
    """
    while passed - fails > precision:
        middle = (fails + passed) / 2
        if passes(middle):
            passed = middle
        else:
            fails = middle
    return passed
