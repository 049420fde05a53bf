"""How a machine is named in a record: boards and phones by their cores, PCs by their model."""

from __future__ import annotations

from pathlib import Path

import pytest

from dreamcache.benchmarks.host import board_name, cpu_name, describe_host, governors
from dreamcache.runtime.sessions.processor import processor_features, processor_fields, processor_name


def arm_text(*parts: int, implementer: int = 0x41, tail: str = "", head: str = "") -> str:
    """/proc/cpuinfo of an arm64 kernel, a block for each core."""
    blocks = (
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd asimddp sme2 svei8mm\n"
        f"CPU implementer\t: 0x{implementer:02x}\nCPU architecture: 8\nCPU variant\t: 0x4\n"
        f"CPU part\t: 0x{part:03x}\nCPU revision\t: 1\n"
        for number, part in enumerate(parts)
    )
    return head + "\n".join(blocks) + tail


PI = arm_text(
    *[0xD0B] * 4, tail="\nRevision\t: c04170\nSerial\t\t: 0\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
)
JETSON = arm_text(*[0xD42] * 6)
PHONE = arm_text(*[0xD05] * 4, *[0xD41] * 2, *[0xD44] * 2, tail="\nHardware\t: GS101\n")
OLD_PHONE = arm_text(0xD03, 0xD08, head="Processor\t: AArch64 Processor rev 4 (aarch64)\n")
APPLE = arm_text(*[0x022] * 4, *[0x023] * 4, implementer=0x61)
PC = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: avx2 amx_bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (PI, "4 × Cortex-A76"),
        (JETSON, "6 × Cortex-A78AE"),
        (PHONE, "4 × Cortex-A55 + 2 × Cortex-A78 + 2 × Cortex-X1"),
        (OLD_PHONE, "1 × Cortex-A53 + 1 × Cortex-A72"),
        (APPLE, "4 × Icestorm (M1) + 4 × Firestorm (M1)"),
        (PC, "AMD EPYC 9654"),
        (arm_text(0xFFE), "1 × ARM part 0xffe"),
        (arm_text(0x12, implementer=0x99), "1 × implementer 0x99 part 0x012"),
        ("model name\t: ARMv8 Processor rev 1 (v8l)\nHardware\t: BCM2835\n", "BCM2835"),
        ("CPU implementer\t: many\nCPU part\t: 0xd0b\n", ""),
        ("", ""),
    ],
)
def test_a_processor_is_named_by_its_cores_or_its_model(cpuinfo: str, name: str) -> None:
    assert processor_name(cpuinfo) == name


def test_arms_features_are_read() -> None:
    assert {"asimddp", "sme2", "svei8mm"} <= processor_features(processor_fields(PHONE))
    assert "amx_bf16" in processor_features(processor_fields(PC))


def test_the_board_stands_before_its_processor(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    board = board_name(tmp_path / "model")
    assert cpu_name(processor_name(PI), board) == "Raspberry Pi 5 Model B Rev 1.0: 4 × Cortex-A76"
    assert cpu_name(processor_name(PC), "") == "AMD EPYC 9654"


def test_a_phone_is_named_by_androids_properties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    getprop = tmp_path / "getprop"
    getprop.write_text('#!/bin/sh\ncase $1 in *model) echo "Pixel 6";; *) echo Google;; esac\n')
    getprop.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert board_name(tmp_path / "none") == "Google Pixel 6"
    getprop.unlink()
    assert board_name(tmp_path / "none") == ""


def test_every_groups_governor_is_named_once(tmp_path: Path) -> None:
    for number, governor in enumerate(("schedutil", "performance", "schedutil")):
        (tmp_path / f"policy{number}").mkdir()
        (tmp_path / f"policy{number}" / "scaling_governor").write_text(governor + "\n")
    assert governors(tmp_path) == "schedutil + performance"
    assert governors(tmp_path / "none") == ""


def test_a_system_that_says_nothing_is_described_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows: no /proc, no affinity, no load, no sysconf."""
    import os

    for name in ("sched_getaffinity", "getloadavg", "sysconf"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr("dreamcache.runtime.sessions.processor._CPUINFO", Path("/nowhere"))
    host = describe_host()
    assert host.cpu
    assert host.usable_cores == host.cores >= 1
    assert (host.ram_bytes, host.load_before, host.cpu_features) == (None, None, ())
