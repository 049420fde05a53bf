"""Processes that die between any two changes of the file system."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}
"""Python's audit events that change a folder; files opened for writing count too."""


def lives_through(change: int, action: Callable[[], object]) -> bool:
    """Whether a process that dies right before its n-th change, counted from 0, lives through an action."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            opened = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wxa+")
            if event in CHANGES or opened:
                seen += 1
                if seen > change:
                    os._exit(9)

        sys.addaudithook(hook)
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    return status == 0
