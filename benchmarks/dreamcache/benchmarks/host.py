"""The machine and the libraries, as a record names them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dreamcache.benchmarks.record import Host
from dreamcache.runtime.sessions.processor import processor_features, processor_fields, processor_name
from dreamcache.runtime.sessions.system import usable_cores
from dreamcache.runtime.sessions.system_memory import installed_memory

# What makes kernels choose another path; the rest of the flags say nothing about a benchmark.
_FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme", "sme2",
)  # fmt: skip
_LIBRARIES = (
    "dreamcache",
    "numpy",
    "onnxruntime",
    "onnxruntime-openvino",
    "openvino",
    "tokenizers",
    "pillow",
    "safetensors",
)
_POLICIES = Path("/sys/devices/system/cpu/cpufreq")
_BOARD = Path("/proc/device-tree/model")


def describe_host() -> Host:
    """This machine, with the load average before anything is measured."""
    fields = processor_fields()
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=cpu_name(processor_name(), board_name()) or platform.processor() or platform.machine(),
        cpu_features=tuple(one for one in _FEATURES if one in processor_features(fields)),
        governor=governors() or None,
        cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        ram_bytes=installed_memory(),
        load_before=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def cpu_name(processor: str, board: str) -> str:
    """The processor and the board that it sits on, whichever are known: "Raspberry Pi 5: 4 × Cortex-A76"."""
    return ": ".join(one for one in (board, processor) if one)


def board_name(device_tree: Path = _BOARD) -> str:
    """The board by its device tree, or the phone by Android's properties; empty on a PC."""
    if board := _read(device_tree).strip("\0 \n"):
        return board
    if (getprop := shutil.which("getprop")) is None:
        return ""
    named = []
    for name in ("ro.product.manufacturer", "ro.product.model"):
        done = subprocess.run([getprop, name], capture_output=True, text=True, check=False, timeout=5)
        named.append(done.stdout.strip())
    return " ".join(filter(None, named))


def governors(policies: Path = _POLICIES) -> str:
    """What sets the clock of each group of cores, each named once; empty where nothing says it."""
    found = (_read(path).strip() for path in sorted(policies.glob("policy*/scaling_governor")))
    return " + ".join(dict.fromkeys(filter(None, found)))


def library_versions() -> dict[str, str]:
    """Versions of Python and of what runs a bundle; a library that is absent is left out."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
