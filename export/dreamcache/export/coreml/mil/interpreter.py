"""Running a function of a saved program in PyTorch, where Core ML itself cannot run.

Two ways to compute: in floats of 32 bits throughout, which shows whether the program is right; and with every
result rounded to the type that the program declares, which shows what 16 bits cost. A device accumulates within an
operation in ways of its own, so the second is an estimate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamcache.export.coreml.mil import constexpr as compressed
from dreamcache.export.coreml.mil import layers  # noqa: F401 (registers its operators)
from dreamcache.export.coreml.mil.arguments import Arguments, Value
from dreamcache.export.coreml.mil.operators import OPERATORS
from dreamcache.export.coreml.mil.program import Constant, Function, Operation
from dreamcache.export.errors import ExportError

__all__ = ["Arithmetic", "Interpreter", "compressed"]

Arithmetic = Literal["fp32", "fp16"]


class Interpreter:
    """One function of a program.

    Args:
        function: see `program.read_program`.
        arithmetic: ``fp32``, or ``fp16`` to round as the program declares.

    Attributes:
        largest: of every computed tensor the largest magnitude that was seen, by name, before any rounding.

    Raises:
        ExportError: an operation type that is not implemented, by name.
    """

    def __init__(self, function: Function, arithmetic: Arithmetic = "fp32") -> None:
        check_known(function)
        self._function = function
        self._arithmetic = arithmetic
        self.largest: dict[str, float] = {}
        self._weights: dict[str, Tensor | str] = {}
        self._steps: list[Operation] = []
        for one in function.operations:
            if one.constant is not None:
                self._weights[one.outputs[0].name] = _constant(one.constant)
            elif one.type.startswith("constexpr_"):
                self._weights[one.outputs[0].name] = self._computed(one, self._weights)[0]
            else:
                self._steps.append(one)
        last = {name: index for index, one in enumerate(self._steps) for name in _read(one)}
        self._dead: dict[int, list[str]] = {}
        for name, index in last.items():
            if name not in function.outputs and name not in self._weights:
                self._dead.setdefault(index, []).append(name)

    @torch.no_grad()
    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name.

        Raises:
            ExportError: other inputs than the function's, or of other shapes.
        """
        declared = {tensor.name: tensor for tensor in self._function.inputs}
        if declared.keys() != inputs.keys():
            raise ExportError(
                f"function {self._function.name}: inputs {sorted(declared)} are expected, received {sorted(inputs)}"
            )
        values: dict[str, Tensor | str] = dict(self._weights)
        for name, array in inputs.items():
            if array.shape != declared[name].shape:
                raise ExportError(
                    f"function {self._function.name}: {name} {declared[name].shape} is expected, received {array.shape}"
                )
            values[name] = self._rounded(
                torch.from_numpy(np.array(array)).float(), declared[name].dtype, name
            )
        for index, one in enumerate(self._steps):
            for tensor, computed in zip(one.outputs, self._computed(one, values), strict=True):
                if tuple(computed.shape) != tensor.shape:
                    raise ExportError(
                        f"{one.type} {tensor.name}: shape {tensor.shape} is declared, "
                        f"{tuple(computed.shape)} came out"
                    )
                values[tensor.name] = computed
            for name in self._dead.get(index, ()):
                del values[name]
        found = {}
        for name in self._function.outputs:
            result = values[name]
            assert isinstance(result, Tensor)
            found[name] = result.float().numpy()
        return found

    def weights(self, least_values: int) -> list[str]:
        """Names of stored floats with at least `least_values` values."""
        return [
            name
            for name, value in self._weights.items()
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() >= least_values
        ]

    def weight(self, name: str) -> NDArray[np.float32]:
        """One of `weights`, a copy."""
        value = self._weights[name]
        assert isinstance(value, Tensor)
        return value.float().numpy().copy()

    def replace_weight(self, name: str, value: NDArray[np.float32]) -> None:
        """Compute with another value from now on."""
        self._weights[name] = torch.from_numpy(np.ascontiguousarray(value))

    def _computed(self, one: Operation, values: Mapping[str, Tensor | str]) -> list[Tensor]:
        given: dict[str, Value] = {}
        for parameter, bound in one.inputs.items():
            taken = [
                _widened(values[value] if isinstance(value, str) else _constant(value)) for value in bound
            ]
            tensors = [value for value in taken if isinstance(value, Tensor)]
            given[parameter] = tensors if parameter == "values" else taken[0]
        computed = OPERATORS[one.type](Arguments(one.type, given))
        results = computed if isinstance(computed, tuple) else (computed,)
        return [
            self._rounded(result, tensor.dtype, tensor.name)
            for result, tensor in zip(results, one.outputs, strict=True)
        ]

    def _rounded(self, value: Tensor, dtype: np.dtype[np.generic], name: str) -> Tensor:
        if dtype != np.float16 or not value.is_floating_point():
            return value
        low, high = value.aminmax()
        self.largest[name] = max(float(high), -float(low), self.largest.get(name, 0.0))
        return value if self._arithmetic == "fp32" else value.half().float()


def check_known(function: Function) -> None:
    """Raises: ExportError where an operation type is not implemented, by name."""
    unknown = sorted({one.type for one in function.operations} - OPERATORS.keys() - {"const"})
    if unknown:
        raise ExportError(f"function {function.name}: operations {', '.join(unknown)} are not implemented")


def _read(one: Operation) -> set[str]:
    return {value for bound in one.inputs.values() for value in bound if isinstance(value, str)}


def _constant(value: Constant) -> Tensor | str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        raise ExportError("a constant of several strings is not known")
    if value.dtype in (np.uint16, np.uint32):
        value = value.astype(np.int64)
    # Mapped weights stay where they are until an operation reads them.
    return torch.from_numpy(value if value.flags.writeable else np.array(value))


def _widened(value: Tensor | str) -> Tensor | str:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value
