"""The processor as Linux describes it in /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_fields(cpuinfo: str | None = None) -> dict[str, str]:
    """Fields of the first processor by name; none where the system has no such file.

    cpuinfo: the file's text; None reads it.
    """
    if cpuinfo is None:
        try:
            cpuinfo = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def processor_features(fields: dict[str, str]) -> set[str]:
    """Instruction sets and other features, by Linux's names for x86-64 or Arm."""
    return set(fields.get("flags", fields.get("Features", "")).split())
