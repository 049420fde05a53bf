"""Core ML itself, on macOS: load times, compute units by operation, and the same comparison. Not run elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from numpy.typing import NDArray

from dreamcache.export.coreml.checks.measure import compared
from dreamcache.export.coreml.checks.recording import Recording
from dreamcache.export.coreml.graph import Compute, saved_function
from dreamcache.runtime.bundle.coreml import CoreMLPart
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.checks import Check


class Native:
    """Opens functions in Core ML.

    Args:
        several: packages that hold more than one function; only there may one be named.

    Attributes:
        load_s: seconds that loading took, by package and function.
    """

    def __init__(self, several: set[Path]) -> None:
        self._several = several
        self.load_s: dict[tuple[str, str], float] = {}

    def __call__(self, package: Path, function: str) -> Compute:
        started = time.perf_counter()
        model = self.load(package, function)
        self.load_s[package.name, function] = time.perf_counter() - started
        dtypes = {tensor.name: tensor.dtype for tensor in saved_function(package, function).inputs}

        def compute(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            given = {name: np.asarray(value).astype(dtypes[name]) for name, value in inputs.items()}
            return {name: np.asarray(value, np.float32) for name, value in model.predict(given).items()}

        return compute

    def load(self, package: Path, function: str) -> Any:
        """coremltools' model of one function."""
        named = {"function_name": function} if package in self._several else {}
        return ct.models.MLModel(str(package), compute_units=ct.ComputeUnit.ALL, **named)


def verify_native(
    bundle: Bundle, part: CoreMLPart, recording: Recording, tell: Callable[[str], None]
) -> Iterator[Check]:
    """Check the packages in Core ML: each graph against PyTorch, load times and compute units."""
    several = {bundle.folder / model.package for model in part.models.values() if len(model.functions) > 1}
    native = Native(several)
    tell("Core ML: running Core ML itself")
    yield from compared(bundle.folder, bundle.contract, part, recording, native, "in Core ML")
    for (package, function), seconds in native.load_s.items():
        units = compute_units(native.load(bundle.folder / "coreml" / package, function), function)
        where = ", ".join(f"{count} on {unit}" for unit, count in units.most_common()) or "no plan"
        yield Check(f"{package}, {function}", True, f"loads in {seconds:.2f} s; operations: {where}")


def compute_units(model: Any, function: str) -> Counter[str]:
    """How many operations of a loaded model prefer which compute unit (`MLComputePlan`)."""
    from coremltools.models.compute_plan import MLComputePlan

    plan = MLComputePlan.load_from_path(model.get_compiled_model_path(), compute_units=ct.ComputeUnit.ALL)
    functions = plan.model_structure.program.functions
    # A compiled model of one function calls it "main" whatever it was in the package.
    block = functions.get(function, next(iter(functions.values()))).block
    found: Counter[str] = Counter()
    for operation in block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is not None:
            device = type(usage.preferred_compute_device).__name__
            found[device.removeprefix("ML").removesuffix("ComputeDevice")] += 1
    return found
