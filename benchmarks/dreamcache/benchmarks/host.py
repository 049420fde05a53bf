"""The machine and the libraries, as a record names them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dreamcache.benchmarks.record import Host

# What makes kernels choose another path; the rest of the flags say nothing about a benchmark.
_FEATURES = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip
_LIBRARIES = (
    "dreamcache",
    "numpy",
    "onnxruntime",
    "onnxruntime-openvino",
    "tokenizers",
    "pillow",
    "safetensors",
)
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def describe_host() -> Host:
    """This machine, with the load average before anything is measured."""
    cpuinfo = _read(Path("/proc/cpuinfo"))
    cores = os.cpu_count() or 1
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=cpu_model(cpuinfo) or platform.processor() or platform.machine(),
        cpu_features=cpu_features(cpuinfo),
        governor=_read(_GOVERNOR).strip() or None,
        cores=cores,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        ram_bytes=_ram_bytes(),
        load_before=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def library_versions() -> dict[str, str]:
    """Versions of Python and of what runs a bundle; a library that is absent is left out."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def cpu_model(cpuinfo: str) -> str:
    """The model name in the text of /proc/cpuinfo; empty where there is none."""
    fields = _fields(cpuinfo)
    return next((fields[name] for name in ("model name", "Model", "Hardware") if fields.get(name)), "")


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """The features that matter to kernels, x86-64's or Arm's, in a fixed order."""
    fields = _fields(cpuinfo)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return tuple(feature for feature in _FEATURES if feature in flags)


def _fields(cpuinfo: str) -> dict[str, str]:
    """The first processor's fields."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _ram_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
