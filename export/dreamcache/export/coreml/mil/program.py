"""A saved MIL program as plain data: functions, operations, constants read from specification and weight file.

Source: coremltools, mlmodel/format/MIL.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.proto import MIL_pb2
from numpy.typing import NDArray

from dreamcache.export.coreml.mil.blobs import WeightFile
from dreamcache.export.coreml.mil.package import Package
from dreamcache.export.errors import ExportError

MAX_VALUES = 1 << 31
"""More values in one constant than any model here has."""

DTYPES: dict[int, np.dtype[np.generic]] = {
    MIL_pb2.BOOL: np.dtype(np.bool_),
    MIL_pb2.FLOAT16: np.dtype(np.float16),
    MIL_pb2.FLOAT32: np.dtype(np.float32),
    MIL_pb2.INT8: np.dtype(np.int8),
    MIL_pb2.INT16: np.dtype(np.int16),
    MIL_pb2.INT32: np.dtype(np.int32),
    MIL_pb2.UINT8: np.dtype(np.uint8),
    MIL_pb2.UINT16: np.dtype(np.uint16),
    MIL_pb2.UINT32: np.dtype(np.uint32),
    MIL_pb2.INT4: np.dtype(np.int8),
    MIL_pb2.UINT1: np.dtype(np.uint8),
    MIL_pb2.UINT2: np.dtype(np.uint8),
    MIL_pb2.UINT3: np.dtype(np.uint8),
    MIL_pb2.UINT4: np.dtype(np.uint8),
    MIL_pb2.UINT6: np.dtype(np.uint8),
}
"""What a value of each MIL type is read as; types of less than a byte widen to one."""

Constant = NDArray[np.generic] | str | tuple[str, ...]


@dataclass(frozen=True)
class Tensor:
    """A named value of a function: shape, and dtype as it is computed with."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        type: MIL's name.
        inputs: parameter to the names of its arguments, or to a constant that stands there itself.
        outputs: in order.
        constant: of a ``const``; None of any other type.
    """

    type: str
    inputs: Mapping[str, tuple[str | NDArray[np.generic], ...]]
    outputs: tuple[Tensor, ...]
    constant: Constant | None = None


@dataclass(frozen=True)
class Function:
    """One function of a program; `outputs` are names."""

    name: str
    inputs: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read_program(package: Package) -> dict[str, Function]:
    """Every function of a package.

    Raises:
        ExportError: what is declared and what is stored do not agree, or a construct is not known.
    """
    return {name: read_function(package, name) for name in package.specification.mlProgram.functions}


def read_function(package: Package, name: str) -> Function:
    """One function of a package, which has it.

    Raises:
        ExportError: see `read_program`.
    """
    return _Reader(package).function(name, package.specification.mlProgram.functions[name])


class _Reader:
    def __init__(self, package: Package) -> None:
        self._package = package
        self._files: dict[Path, WeightFile] = {}

    def function(self, name: str, function: Any) -> Function:
        if function.opset not in function.block_specializations:
            raise ExportError(f"{self._package.folder}: function {name} has no block for {function.opset!r}")
        block = function.block_specializations[function.opset]
        return Function(
            name,
            tuple(self._tensor(value) for value in function.inputs),
            tuple(self._operation(operation) for operation in block.operations),
            tuple(block.outputs),
        )

    def _operation(self, operation: Any) -> Operation:
        if operation.blocks:
            raise ExportError(
                f"{self._package.folder}: {operation.type} holds blocks; nothing exported here does"
            )
        outputs = tuple(self._tensor(value) for value in operation.outputs)
        if operation.type == "const":
            return Operation("const", {}, outputs, self._value(operation.attributes["val"]))
        inputs = {
            name: tuple(self._argument(argument) for argument in bound.arguments)
            for name, bound in operation.inputs.items()
        }
        # Old opsets keep the data of compressed weights in attributes.
        attributes = {
            name: (value,)
            for name, stored in operation.attributes.items()
            if name != "name" and not isinstance(value := self._value(stored), str | tuple)
        }
        return Operation(operation.type, inputs | attributes, outputs)

    def _argument(self, argument: Any) -> str | NDArray[np.generic]:
        if argument.WhichOneof("binding") == "name":
            return str(argument.name)
        value = self._value(argument.value)
        if isinstance(value, str | tuple):
            raise ExportError(f"{self._package.folder}: a string stands where a tensor is expected")
        return value

    def _tensor(self, value: Any) -> Tensor:
        shape, dtype = self._declared(value.type)
        return Tensor(value.name, shape, dtype)

    def _declared(self, kind: Any) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
        if kind.WhichOneof("type") != "tensorType":
            raise ExportError(f"{self._package.folder}: a value of {kind.WhichOneof('type')} is not known")
        tensor = kind.tensorType
        if tensor.dataType == MIL_pb2.STRING:
            return (), np.dtype(np.str_)
        if tensor.dataType not in DTYPES:
            raise ExportError(f"{self._package.folder}: data type {tensor.dataType} is not known")
        return tuple(int(dimension.constant.size) for dimension in tensor.dimensions), DTYPES[tensor.dataType]

    def _value(self, value: Any) -> Constant:
        shape, dtype = self._declared(value.type)
        count = prod(shape)
        if count > MAX_VALUES:
            raise ExportError(f"{self._package.folder}: a constant of {count} values is declared")
        if value.WhichOneof("value") == "blobFileValue":
            path = self._package.weight_file(value.blobFileValue.fileName)
            if path not in self._files:
                self._files[path] = WeightFile(path)
            found = self._files[path].read(int(value.blobFileValue.offset), count)
            if found.dtype != dtype:
                raise ExportError(f"{path}: a blob of {dtype} is declared, {found.dtype} is stored")
            return found.reshape(shape)
        return self._immediate(value.immediateValue.tensor, shape, dtype)

    def _immediate(self, tensor: Any, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Constant:
        kind = tensor.WhichOneof("value")
        if kind == "strings":
            strings = tuple(tensor.strings.values)
            return strings[0] if len(strings) == 1 else strings
        stored = getattr(tensor, kind).values
        if kind == "bytes":
            values: NDArray[np.generic] = np.frombuffer(stored, dtype)
        else:
            values = np.array(list(stored)).astype(dtype)
        if values.size != prod(shape):
            raise ExportError(
                f"{self._package.folder}: a constant of shape {shape} is declared, {values.size} values are stored"
            )
        return values.reshape(shape)
