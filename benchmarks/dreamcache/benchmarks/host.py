"""The machine and the libraries, as a record names them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dreamcache.benchmarks.record import Host
from dreamcache.runtime.sessions.processor import processor_features, processor_fields

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
    fields = processor_fields()
    cores = os.cpu_count() or 1
    return Host(
        system=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        cpu=cpu_model(fields) or platform.processor() or platform.machine(),
        cpu_features=tuple(one for one in _FEATURES if one in processor_features(fields)),
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


def cpu_model(fields: dict[str, str]) -> str:
    """The model name among the fields of /proc/cpuinfo; empty where there is none."""
    return next((fields[name] for name in ("model name", "Model", "Hardware") if fields.get(name)), "")


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
