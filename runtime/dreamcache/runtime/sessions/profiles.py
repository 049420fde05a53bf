"""Two ways to open a graph: for speed, or for little private memory.

"speed" is ONNX Runtime's own defaults: weights are copied into the layout its kernels like best.
"memory" leaves the weights in their file, mapped, and gives each activation back as soon as it is dead. What each
setting brings is in docs/guides/memory.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from dreamcache.runtime.errors import SettingsError
from dreamcache.runtime.sessions.allocator import map_large_blocks
from dreamcache.runtime.sessions.overflow import guard_entries

Profile = Literal["speed", "memory"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

MMAP_BYTES = 1 << 18
"""In the memory profile, blocks from this size on are mapped, and so are returned when they are freed."""


def check_profile(profile: str) -> Profile:
    """Raises: SettingsError for a profile that does not exist."""
    for known in PROFILES:
        if profile == known:
            return known
    raise SettingsError(f"profile: one of {', '.join(PROFILES)} is expected, received {profile!r}")


def session_attributes(profile: Profile, repeated: bool) -> dict[str, bool | str]:
    """What a profile changes of ONNX Runtime's defaults: attributes of SessionOptions, the level by its name.

    repeated: the graph runs at every step.
    """
    if profile == "memory":
        return {
            # The highest level stores convolutions' weights anew in blocks, which are private copies again.
            "graph_optimization_level": "ORT_ENABLE_EXTENDED",
            # An arena saves mapping every activation anew, for a third more memory: worth it where a graph runs often.
            "enable_cpu_mem_arena": repeated,
            "enable_mem_pattern": False,
            # Planned reuse keeps a buffer from its first use to its last; without it each goes when it is dead.
            "enable_mem_reuse": False,
        }
    # From the second run on the pattern is one block next to the arena that the first run filled: SD's decoder
    # would take twice its memory for another picture, and be no faster.
    return {} if repeated else {"enable_mem_pattern": False}


def session_entries(profile: Profile) -> dict[str, str]:
    """Entries of a session's configuration that a profile adds (onnxruntime_session_options_config_keys.h)."""
    # A prepacked weight is a private copy of a mapped one.
    return {"session.disable_prepacking": "1"} if profile == "memory" else {}


def session_options(
    profile: Profile,
    threads: int | None = None,
    repeated: bool = False,
    *,
    guard: Sequence[tuple[str, str]] | None = None,
) -> Any:
    """ONNX Runtime's SessionOptions of a profile.

    threads: None leaves the number to ONNX Runtime. repeated: the graph runs at every step. guard: entries against
    sums that overflow; None is what this processor needs (`overflow.guard_entries`).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # What goes wrong is in the exception; ONNX Runtime would write it to the terminal too, in lines of its own.
    options.log_severity_level = 4
    for name, value in (*(guard_entries() if guard is None else guard), *session_entries(profile).items()):
        options.add_session_config_entry(name, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    for name, chosen in session_attributes(profile, repeated).items():
        levels = onnxruntime.GraphOptimizationLevel
        setattr(options, name, getattr(levels, chosen) if isinstance(chosen, str) else chosen)
    return options


def prepare_process(profile: Profile) -> None:
    """Let this process return freed activations to the system at once, where its C library can be told so.

    It holds for the whole process from then on, so "speed" changes nothing.
    """
    if profile == "memory":
        map_large_blocks(MMAP_BYTES)
