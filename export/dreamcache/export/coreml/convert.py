"""From a graph module to an `.mlpackage`: traced by PyTorch, converted by coremltools, with the contract's names.

Core ML allows no dots in names, so a tensor is called there as `coreml_name` says. In ``fp16`` everything is computed
in 16 bits but the sine and cosine of the timestep, whose arguments reach 999 and would lose their fraction.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Literal

import coremltools as ct
import numpy as np
import torch
from torch import nn

from dreamcache.export.errors import ExportError
from dreamcache.export.graphs.trace import sample_input
from dreamcache.export.options import CoreMLTarget
from dreamcache.runtime.bundle.tensors import TensorSpec
from dreamcache.runtime.errors import first_line

ComputePrecision = Literal["fp16", "fp32"]

KeptInFp32 = Callable[[Any], bool]
"""Whether an operation of coremltools' program stays in 32 bits."""

PRECISE = ("timestep", "time_ids")
"""Inputs whose sines and cosines are taken."""

_PERIODIC = frozenset({"sin", "cos"})
_ARGUMENT = frozenset({"mul", "expand_dims", "cast", "reshape"})
"""What makes the arguments of those."""


def coreml_name(name: str) -> str:
    """What a declared tensor is called in a Core ML model."""
    return name.replace(".", "_")


def convert_graph(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    place: Path,
    *,
    target: CoreMLTarget = "iOS18",
    precision: ComputePrecision = "fp16",
    kept: KeptInFp32 = lambda _: False,
) -> None:
    """Write `module` as the package `place`.

    Args:
        module: takes `inputs` in order and returns `outputs`.
        inputs: with static shapes. Floats become 16 bits with ``fp16``, but for `PRECISE` ones.
        outputs: likewise.
        place: a path that ends in ``.mlpackage``; must not exist.
        target: the oldest system that can run it.
        precision: of the computation, and of the stored weights.
        kept: further operations to keep in 32 bits.

    Raises:
        ExportError: coremltools cannot convert the module.
    """
    dtype = np.float16 if precision == "fp16" else np.float32

    def declared(spec: TensorSpec) -> Any:
        if spec.dtype.startswith("int"):
            return np.int32
        return np.float32 if spec.name in PRECISE else dtype

    try:
        with quiet_coremltools(), torch.no_grad():
            examples = tuple(sample_input(spec) for spec in inputs)
            traced: Any = torch.jit.trace(module.eval(), examples, check_trace=False)  # type: ignore[no-untyped-call]
            model = ct.convert(
                traced,
                inputs=[
                    ct.TensorType(name=coreml_name(spec.name), shape=spec.shape, dtype=declared(spec))
                    for spec in inputs
                ],
                outputs=[ct.TensorType(name=coreml_name(spec.name), dtype=dtype) for spec in outputs],
                convert_to="mlprogram",
                minimum_deployment_target=getattr(ct.target, target),
                compute_precision=_compute_precision(precision, kept),
                skip_model_load=True,
            )
            model.save(str(place))
    except Exception as error:
        raise ExportError(
            f"{type(module).__name__} does not convert to Core ML: {first_line(error)}"
        ) from error


def merge_functions(packages: dict[str, Path], place: Path, default: str) -> None:
    """One package whose functions, by name, are those packages' models; equal weights are stored once (iOS 18)."""
    descriptor = ct.utils.MultiFunctionDescriptor()
    for name, path in packages.items():
        descriptor.add_function(str(path), src_function_name="main", target_function_name=name)
    descriptor.default_function_name = default
    with quiet_coremltools():
        ct.utils.save_multifunction(descriptor, str(place))


def bisect_package(package: Path, folder: Path) -> tuple[Path, Path]:
    """The two halves, by bytes of weights, of a package of one function; the second reads what the first returns.

    Raises:
        ExportError: coremltools finds no place to cut.
    """
    folder.mkdir()
    try:
        with quiet_coremltools():
            ct.models.utils.bisect_model(str(package), str(folder), check_output_correctness=False)
    except Exception as error:
        raise ExportError(f"{package.stem} cannot be cut in two: {first_line(error)}") from error
    return folder / f"{package.stem}_chunk1.mlpackage", folder / f"{package.stem}_chunk2.mlpackage"


def _compute_precision(precision: ComputePrecision, kept: KeptInFp32) -> Any:
    if precision == "fp32":
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=lambda one: not (_is_periodic(one) or kept(one)))


def _is_periodic(one: Any) -> bool:
    """Sine and cosine, and the products that only they read."""
    if one.op_type in _PERIODIC:
        return True
    if one.op_type not in _ARGUMENT:
        return False
    readers = [reader for output in one.outputs for reader in output.child_ops]
    return bool(readers) and all(_is_periodic(reader) for reader in readers)


@contextmanager
def quiet_coremltools() -> Iterator[None]:
    """coremltools draws bars of its own, and warns of tracing and of every PyTorch that is newer than itself."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
