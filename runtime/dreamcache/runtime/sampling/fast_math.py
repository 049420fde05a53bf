"""Fast arithmetic is used where this device was seen to compute what PyTorch computed, by the bundle's golden tensors.

What was found is kept with the optimised graphs, under a fingerprint of the bundle, the processor and the engines.
"""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dreamcache.runtime.bundle.parity import MIN_DEVICE_PSNR_DB
from dreamcache.runtime.errors import OutputError, SettingsError
from dreamcache.runtime.files import replacing
from dreamcache.runtime.sampling.device_check import DeviceFigures, check_device
from dreamcache.runtime.sessions.kept_graphs import graph_folder, is_private, processor_facts
from dreamcache.runtime.sessions.session import SessionOpener
from dreamcache.runtime.untrusted import parse_json, read_bounded

_MOST_BYTES = 1 << 16


def check_fast_math(sessions: SessionOpener) -> DeviceFigures:
    """What this device computes with fast arithmetic: measured once, then read again.

    Raises: SettingsError where it is too far from PyTorch, with the figures, or the bundle has no golden tensors.
    """
    folder = graph_folder() if sessions.graphs is None else sessions.graphs
    place = folder / f"{_fingerprint(sessions)}.math.json"
    figures = _kept(place)
    if figures is None:
        figures = check_device(replace(sessions, keep=False))
        if figures is None:
            raise SettingsError(
                "math fast: golden tensors are expected in the bundle, to judge this device by; "
                "export it again with this version, or choose math exact"
            )
        _keep(place, figures)
    if faults := list(figures.faults(MIN_DEVICE_PSNR_DB)):
        raise SettingsError(f"math fast: {faults[0]} ({figures}); choose math exact")
    return figures


def _fingerprint(sessions: SessionOpener) -> str:
    facts = {
        "files": {path: record.sha256 for path, record in sessions.bundle.contract.files.items()},
        "processor": [platform.processor(), *processor_facts()],
        "providers": sessions.providers,
        "versions": [_version("onnxruntime"), _version("openvino")],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _kept(place: Path) -> DeviceFigures | None:
    with suppress(OSError, ValueError, TypeError, AttributeError):
        if is_private(place.stat()):
            raw = parse_json(read_bounded(place, _MOST_BYTES))
            psnr, condition = (
                {str(name): float(value) for name, value in raw[part].items()}
                for part in ("psnr_db", "condition")
            )
            return DeviceFigures(psnr, condition) if psnr and condition else None
    return None


def _keep(place: Path, figures: DeviceFigures) -> None:
    with suppress(OSError, OutputError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with replacing(place, overwrite=True) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(asdict(figures)), encoding="utf-8")
