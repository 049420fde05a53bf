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

# Blocks from this size on are mapped, and so are returned when they are freed.
_MMAP_BYTES = 1 << 18


def check_profile(profile: str) -> Profile:
    """Raises: SettingsError for a profile that does not exist."""
    for known in PROFILES:
        if profile == known:
            return known
    raise SettingsError(f"profile: one of {', '.join(PROFILES)} is expected, received {profile!r}")


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
    options.log_severity_level = 3
    for name, value in guard_entries() if guard is None else guard:
        options.add_session_config_entry(name, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    if profile == "memory":
        # A prepacked weight is a private copy of a mapped one.
        options.add_session_config_entry("session.disable_prepacking", "1")
        # The highest level stores convolutions' weights anew in blocks, which are private copies again.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        # An arena saves mapping every activation anew, for a third more memory: worth it where a graph runs often.
        options.enable_cpu_mem_arena = repeated
        options.enable_mem_pattern = False
        # Planned reuse keeps a buffer from its first use to its last; without it each goes when it is dead.
        options.enable_mem_reuse = False
    elif not repeated:
        # From the second run on the pattern is one block next to the arena that the first run filled: SD's decoder
        # would take twice its memory for another picture, and be no faster.
        options.enable_mem_pattern = False
    return options


def prepare_process(profile: Profile) -> None:
    """Let this process return freed activations to the system at once, where its C library can be told so.

    It holds for the whole process from then on, so "speed" changes nothing.
    """
    if profile == "memory":
        map_large_blocks(_MMAP_BYTES)
