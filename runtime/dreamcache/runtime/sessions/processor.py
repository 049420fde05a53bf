"""The processor as Linux describes it in /proc/cpuinfo; Arm's gives numbers where x86-64's gives a name.

Numbers of implementers and parts: Arm's technical reference manuals (MIDR_EL1), as util-linux's lscpu lists them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_IMPLEMENTERS = {
    0x41: "ARM", 0x46: "Fujitsu", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm", 0x53: "Samsung",
    0x61: "Apple", 0xC0: "Ampere",
}  # fmt: skip
_PARTS = {
    (0x41, 0xC07): "Cortex-A7", (0x41, 0xC09): "Cortex-A9", (0x41, 0xC0F): "Cortex-A15",
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD04): "Cortex-A35", (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57", (0x41, 0xD08): "Cortex-A72", (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75", (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77", (0x41, 0xD0E): "Cortex-A76AE", (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78", (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510", (0x41, 0xD47): "Cortex-A710", (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD49): "Neoverse-N2", (0x41, 0xD4B): "Cortex-A78C", (0x41, 0xD4C): "Cortex-X1C",
    (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3", (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720", (0x41, 0xD82): "Cortex-X4",
    (0x41, 0xD84): "Neoverse-V3", (0x41, 0xD85): "Cortex-X925", (0x41, 0xD87): "Cortex-A725",
    (0x46, 0x001): "A64FX", (0x48, 0xD01): "TaiShan-v110",
    (0x4E, 0x003): "Denver 2", (0x4E, 0x004): "Carmel",
    (0x51, 0x001): "Oryon", (0x51, 0x802): "Kryo 385 Gold", (0x51, 0x803): "Kryo 385 Silver",
    (0x51, 0x804): "Kryo 485 Gold", (0x51, 0x805): "Kryo 485 Silver",
    (0x61, 0x022): "Icestorm (M1)", (0x61, 0x023): "Firestorm (M1)",
    (0x61, 0x032): "Blizzard (M2)", (0x61, 0x033): "Avalanche (M2)",
    (0xC0, 0xAC3): "Ampere-1",
}  # fmt: skip


def processor_fields(cpuinfo: str | None = None) -> dict[str, str]:
    """Fields of the first processor by name; none where the system has no such file.

    cpuinfo: the file's text; None reads it.
    """
    fields: dict[str, str] = {}
    for line in _text(cpuinfo).splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def processor_features(fields: dict[str, str]) -> set[str]:
    """Instruction sets and other features, by Linux's names for x86-64 or Arm."""
    return set(fields.get("flags", fields.get("Features", "")).split())


def processor_name(cpuinfo: str | None = None) -> str:
    """Its model, or its kinds of cores as in "4 × Cortex-A55 + 2 × Cortex-X1"; empty where neither is said.

    cpuinfo: the file's text; None reads it.
    """
    text = _text(cpuinfo)
    if cores := _arm_cores(text):
        return " + ".join(f"{count} × {name}" for name, count in cores.items())
    fields = processor_fields(text)
    # "ARMv8 Processor rev 1 (v8l)" is an architecture.
    named = (fields.get(name, "") for name in ("model name", "Model", "Hardware"))
    return next((name for name in named if name and not name.startswith("ARMv")), "")


def _arm_cores(text: str) -> Counter[str]:
    """How many cores there are of each kind, in the system's order; none on other processors."""
    cores: Counter[str] = Counter()
    implementer: int | None = None
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name not in ("CPU implementer", "CPU part"):
            continue
        try:
            number = int(value, 0)
        except ValueError:
            continue
        if name == "CPU implementer":
            implementer = number
        elif implementer is not None:
            maker = _IMPLEMENTERS.get(implementer, f"implementer 0x{implementer:02x}")
            cores[_PARTS.get((implementer, number), f"{maker} part 0x{number:03x}")] += 1
    return cores


def _text(cpuinfo: str | None) -> str:
    if cpuinfo is not None:
        return cpuinfo
    try:
        return _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
