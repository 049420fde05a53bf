"""What each session setting of ours costs or gains on this machine, against ONNX Runtime's defaults.

    python benchmarks/options.py BUNDLE --json options.json

One session for each setting, on the denoiser and the bundle's golden inputs; their calls alternate, round by round. All
sessions are open together, so a large bundle needs as many times its memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.bundle.folder import Bundle, open_bundle
from dreamcache.runtime.bundle.golden import read_golden
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.sessions.overflow import GUARD
from dreamcache.runtime.sessions.profiles import session_options

LEVEL = onnxruntime.GraphOptimizationLevel
# By name: one change of ONNX Runtime's defaults each.
CHANGES: dict[str, Callable[[Any], Any]] = {
    "defaults": lambda _: None,
    "guard against overflow": lambda options: options.add_session_config_entry(*GUARD),
    "no prepacking": lambda options: options.add_session_config_entry("session.disable_prepacking", "1"),
    "extended optimisation": lambda options: setattr(
        options, "graph_optimization_level", LEVEL.ORT_ENABLE_EXTENDED
    ),
    "no arena": lambda options: setattr(options, "enable_cpu_mem_arena", False),
    "no memory pattern": lambda options: setattr(options, "enable_mem_pattern", False),
    "no memory reuse": lambda options: setattr(options, "enable_mem_reuse", False),
}
PROFILES: dict[str, Any] = {"profile speed": "speed", "profile memory": "memory"}


def sessions(bundle: Bundle, threads: int | None) -> dict[str, Any]:
    """A session of the denoiser for each setting."""
    options = {name: onnxruntime.SessionOptions() for name in CHANGES}
    for name, change in CHANGES.items():
        change(options[name])
        if threads is not None:
            options[name].intra_op_num_threads = threads
    options |= {name: session_options(profile, threads, repeated=True) for name, profile in PROFILES.items()}
    path = str(bundle.path(bundle.contract.graphs.denoiser.file))
    providers = ["CPUExecutionProvider"]
    return {
        name: onnxruntime.InferenceSession(path, one, providers=providers) for name, one in options.items()
    }


def measure(bundle: Bundle, threads: int | None, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each setting's calls, one a round, after one that is not counted.

    Raises: BundleError for a bundle without golden tensors.
    """
    cases = read_golden(bundle)
    if not cases:
        raise BundleError("golden tensors are expected in the bundle; export it again with this version")
    feed = {name: np.ascontiguousarray(value) for name, value in cases["denoiser"].inputs().items()}
    taken: dict[str, list[float]] = {}
    opened = sessions(bundle, threads)
    for index in range(rounds + 1):
        for name, session in opened.items():
            begin = time.perf_counter()
            session.run(["prediction"], feed)
            if index:
                taken.setdefault(name, []).append((time.perf_counter() - begin) * 1e3)
    return taken


def main() -> None:
    """Measure, print the ratios, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    taken = measure(bundle, given.threads, given.rounds)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ratios = {name: median / medians["defaults"] for name, median in medians.items()}
    for name, ratio in ratios.items():
        print(f"{name:24} {medians[name]:9.2f} ms   {ratio:.3f} × defaults")
    if given.json is not None:
        record = {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "host": describe_host().model_dump(),
            "versions": library_versions(),
            "bundle": {"name": given.bundle.name, "precision": bundle.contract.precision},
            "architecture": bundle.contract.architecture.name,
            "threads": given.threads,
            "settings": [runner_settings(profile) for profile in PROFILES.values()],
            "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
            "samples_ms": {name: [round(one, 3) for one in times] for name, times in taken.items()},
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
