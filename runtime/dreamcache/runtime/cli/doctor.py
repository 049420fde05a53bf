"""The subcommand `dreamcache doctor`: what is installed, what this machine has, and what is kept in caches."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated, Any

import typer

from dreamcache.runtime.cli import options
from dreamcache.runtime.cli.words import cell
from dreamcache.runtime.sessions.kept_graphs import graph_folder
from dreamcache.runtime.sessions.processor import processor_features, processor_fields, processor_name
from dreamcache.runtime.sessions.system import usable_cores, user_caches
from dreamcache.runtime.sessions.system_memory import installed_memory

# What lets kernels take another path.
_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w,-]+)\])?.*?(?:extra == [\"']([\w-]+)[\"'])?$")
_KEPT = ("*.graph", "openvino*", "web")
"""What the runner itself writes into its cache folder; nothing else there is touched."""


def doctor(
    clear: Annotated[bool, typer.Option("--clear", help="Removal of what is kept in the caches.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show what is installed, which extras are missing, what this machine has, and what the caches hold."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found: dict[str, Any] = {
        "versions": _versions(),
        "providers": _providers(),
        "extras missing": missing_extras(),
        "machine": _machine(),
        "caches": {str(path): kept_bytes(path) for path in cache_folders()},
    }
    if clear:
        for folder in cache_folders():
            for path in kept(folder):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(
                    missing_ok=True
                )
        found["caches"] = {str(path): kept_bytes(path) for path in cache_folders()}
    if as_json:
        options.print_result(found, "", as_json=True)
        return
    table = Table("", "", show_header=False)
    for name, value in found["versions"].items():
        table.add_row(name, Text(value))
    table.add_row("ONNX Runtime's providers", Text(", ".join(found["providers"])))
    for extra, packages in found["extras missing"].items():
        table.add_row(f"extra [{extra}]".replace("[", "\\["), Text("missing: " + ", ".join(packages)))
    for name, value in found["machine"].items():
        table.add_row(name, Text(str(value)))
    for path, size in found["caches"].items():
        table.add_row("cache", cell(f"{path}: {size / 1e6:.1f} MB"))
    Console().print(table)


def missing_extras(name: str = "dreamcache") -> dict[str, list[str]]:
    """Of each extra, the packages that it asks for and that are not installed; complete ones are left out."""
    wanted: dict[str, list[tuple[str, str]]] = {}
    for line in requires(name) or ():
        if (match := _REQUIREMENT.match(line)) is not None and match[3]:
            wanted.setdefault(match[3], []).append((match[1], match[2] or ""))

    def packages(extra: str) -> Iterator[str]:
        for package, extras in wanted.get(extra, ()):
            if package == name:
                for other in extras.split(","):
                    yield from packages(other)
            else:
                yield package

    missing = {extra: sorted({one for one in packages(extra) if not _installed(one)}) for extra in wanted}
    return {extra: absent for extra, absent in missing.items() if absent}


def cache_folders() -> list[Path]:
    """Where this user's optimised graphs, compiled models and JavaScript are kept."""
    return list(dict.fromkeys((graph_folder(), user_caches() / "dreamcache")))


def kept(folder: Path) -> list[Path]:
    """What the runner wrote into a cache folder; nothing where this user may not look."""
    with suppress(OSError):
        return sorted(path for pattern in _KEPT for path in folder.glob(pattern))
    return []


def kept_bytes(folder: Path) -> int:
    """Bytes of what the runner wrote into a cache folder."""
    files = (inner for path in kept(folder) for inner in ([path] if path.is_file() else path.rglob("*")))
    total = 0
    with suppress(OSError):  # another process may clear it meanwhile
        for path in files:
            total += path.stat().st_size if path.is_file() else 0
    return total


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _versions() -> dict[str, str]:
    names = ("dreamcache", "numpy", "onnxruntime", "openvino", "torch", "diffusers", "coremltools")
    return {"python": platform.python_version()} | {name: version(name) for name in names if _installed(name)}


def _providers() -> list[str]:
    import onnxruntime

    return [str(name) for name in onnxruntime.get_available_providers()]


def _machine() -> dict[str, Any]:
    memory = installed_memory()
    features = processor_features(processor_fields())
    return {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}, {sys.byteorder} endian",
        "processor": processor_name() or platform.processor() or "not said by the system",
        "features": " ".join(one for one in _FEATURES if one in features) or "none that is known here",
        "cores": usable_cores(),
        "memory": "not said by the system" if memory is None else f"{memory / 1e9:.1f} GB",
    }
