"""What of the runner decides a speed, as one hash in every record: a record taken under other settings has aged.

A hash covers what the code says, not what a machine answers: the guard against sums that overflow is kept beside it,
since each processor is asked for itself (`dreamcache.runtime.sessions.overflow`). Threads are the user's, and so no
part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dreamcache.runtime.sessions.allocator import LARGE_BLOCK_BYTES
from dreamcache.runtime.sessions.openvino import engine_settings
from dreamcache.runtime.sessions.overflow import GUARD, guard_entries
from dreamcache.runtime.sessions.profiles import (
    MMAP_BYTES,
    Profile,
    session_attributes,
    session_entries,
)
from dreamcache.runtime.sessions.providers import ARM_BF16, OPENVINO, Math

_BROWSER = {"wasm", "webgpu"}


def runner_settings(
    profile: Profile = "speed",
    providers: Sequence[str] = ("cpu",),
    math: Math = "exact",
    guarded: bool | None = None,
) -> dict[str, Any]:
    """A run's settings as a record keeps them, with their hash.

    providers: short names. guarded: whether 8-bit sums were guarded against overflow; None asks this processor.
    """
    if guarded is None:
        guarded = bool(guard_entries())
    return {
        "profile": profile,
        "providers": list(providers),
        "math": math,
        "guarded": guarded,
        "settings_sha256": _sha256(_settings(profile, providers, math, guarded)),
    }


def is_current(kept: Mapping[str, Any]) -> bool:
    """Whether today's runner has the settings that a record kept (`runner_settings`); False where it kept none.

    True for a browser's, which has none of these settings.
    """
    if not _BROWSER.isdisjoint(kept.get("providers", ())):
        return True
    if kept.get("settings_sha256") is None or kept.get("guarded") is None:
        return False
    now = runner_settings(kept["profile"], kept["providers"], kept["math"], kept["guarded"])
    return bool(now["settings_sha256"] == kept["settings_sha256"])


def _settings(profile: Profile, providers: Sequence[str], math: Math, guarded: bool) -> dict[str, Any]:
    if OPENVINO in providers:
        return {"engine": engine_settings(math == "fast")}
    return {
        "attributes": [session_attributes(profile, repeated) for repeated in (False, True)],
        "entries": session_entries(profile),
        "guard": GUARD if guarded else None,
        "bf16": ARM_BF16 if math == "fast" else None,
        "mapped_blocks": [MMAP_BYTES if profile == "memory" else None, LARGE_BLOCK_BYTES],
    }


def _sha256(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
