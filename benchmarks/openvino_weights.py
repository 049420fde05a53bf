"""Weights and activations in 8 bits for OpenVINO beside its bf16 and fp32: time, distance from PyTorch, private memory.

    pip install nncf
    python benchmarks/openvino_weights.py BUNDLE --json openvino.json

The bundle's denoiser in its portable form, fp32 (`dreamcache export --precision fp32`), is compressed by nncf: weights
alone (INT8, symmetric, by channel), or weights and activations, whose ranges come from the bundle's golden inputs. All
variants are open together and their calls alternate, round by round; so a large bundle needs as many times its memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino

from dreamcache.benchmarks.host import describe_host, library_versions
from dreamcache.benchmarks.runner_settings import runner_settings
from dreamcache.runtime.bundle.folder import Bundle, open_bundle
from dreamcache.runtime.bundle.golden import NULL, STOCK, GoldenCase, read_golden, take_sample
from dreamcache.runtime.bundle.parity import psnr_db
from dreamcache.runtime.errors import BundleError
from dreamcache.runtime.sessions.openvino import engine_settings
from dreamcache.runtime.sessions.system_memory import read_memory

Cases = Mapping[str, GoldenCase]
# By name: how the model is changed, and whether OpenVINO may compute in the CPU's own 16 bits.
VARIANTS: dict[str, tuple[Callable[[Any, Cases], Any], bool]] = {
    "fp32": (lambda model, _: model, False),
    "bf16": (lambda model, _: model, True),
    "weights in 8 bits, bf16": (
        lambda model, _: nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM),
        True,
    ),
    "weights and activations in 8 bits, bf16": (
        lambda model, cases: nncf.quantize(
            model,
            nncf.Dataset([case.inputs() for case in cases.values()]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(cases),
        ),
        True,
    ),
}


def golden(bundle: Bundle) -> dict[str, GoldenCase]:
    """The denoiser's runs. Raises: BundleError for a bundle without golden tensors, or one that is not in fp32."""
    if bundle.contract.precision != "fp32":
        raise BundleError(f"a bundle in fp32 is expected, received {bundle.contract.precision}")
    cases = {name: case for name, case in read_golden(bundle).items() if name in ("denoiser", STOCK, NULL)}
    if not cases:
        raise BundleError("golden tensors are expected in the bundle; export it again with this version")
    return cases


def measure(bundle: Bundle, threads: int | None, rounds: int) -> dict[str, dict[str, Any]]:
    """Of each variant: milliseconds of its calls after one that is not counted, dB of the worst run, private MB."""
    cases = golden(bundle)
    spec = bundle.contract.graphs.denoiser
    core, requests = openvino.Core(), {}
    found: dict[str, dict[str, Any]] = {}
    for name, (change, fast) in VARIANTS.items():
        settings = engine_settings(fast) | ({} if threads is None else {"INFERENCE_NUM_THREADS": threads})
        model = change(core.read_model(str(bundle.path(spec.portable or spec.file))), cases)
        before = read_memory(os.getpid()).private_mb
        requests[name] = core.compile_model(model, "CPU", settings).create_infer_request()
        worst = min(_db(requests[name], case) for case in cases.values())
        found[name] = {
            "worst_db": round(worst, 2),
            "private_mb": round(read_memory(os.getpid()).private_mb - before, 1),
            "samples_ms": [],
        }
    feed = cases["denoiser"].inputs()
    for _ in range(rounds):
        for name, request in requests.items():
            begin = time.perf_counter()
            request.infer(feed)
            found[name]["samples_ms"].append(round((time.perf_counter() - begin) * 1e3, 3))
    return found


def _db(request: Any, case: GoldenCase) -> float:
    """How near one run is to PyTorch's prediction."""
    request.infer(case.inputs())
    expected = case.outputs["prediction"]
    received = np.array(request.get_tensor("prediction").data)
    return psnr_db(expected, take_sample(received, expected.size))


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    rows = measure(bundle, given.threads, given.rounds)
    medians = {name: statistics.median(row["samples_ms"]) for name, row in rows.items()}
    for name, row in rows.items():
        print(
            f"{name:42} {medians[name]:9.1f} ms   {medians[name] / medians['bf16']:.3f} × bf16   "
            f"{row['worst_db']:6.1f} dB   {row['private_mb']:7.0f} MB"
        )
    if given.json is not None:
        record = {
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "host": describe_host().model_dump(),
            "versions": library_versions() | {"nncf": nncf.__version__},
            "runner": runner_settings(providers=("openvino",), math="fast"),
            "architecture": bundle.contract.architecture.name,
            "weights": bundle.contract.weights,
            "rows": rows,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
