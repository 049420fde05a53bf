"""What the parts of a contract are made of: inputs and outputs of a graph by name, shape and type; files by path,
size and hash; and the base of every part.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

DType = Literal["float32", "float16", "int64", "int32"]
"""Numpy's names of the element types of inputs and outputs."""

ONNX_TYPES: dict[DType, str] = {"float32": "float", "float16": "float16", "int64": "int64", "int32": "int32"}
"""ONNX Runtime's names of them; those of `TensorProto.DataType` are the same in capitals."""

# Far above any input or output of a graph (a 4096 px picture has 5e7), far below what exhausts a machine.
MAX_ELEMENTS = 1 << 28


class ContractModel(BaseModel):
    """Base of every part of the contract: unknown fields are refused, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    newer: ClassVar[tuple[str, ...]] = ()
    """Fields that version 0.1 does not know, and so refuses: written only where they are not their default."""

    @model_serializer(mode="wrap")
    def _readable_by_older_versions(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        kept: dict[str, Any] = dump(self)
        for name in self.newer:
            if name in kept and getattr(self, name) == type(self).model_fields[name].default:
                del kept[name]
        return kept


class TensorSpec(ContractModel):
    """One input or output of a graph, with its static shape.

    multiples: axis 1 may be up to this many times as long: tokens of several references, one after the other.
    """

    name: str
    shape: tuple[PositiveInt, ...]
    dtype: DType
    meaning: str = ""
    multiples: PositiveInt = 1

    @model_validator(mode="after")
    def _can_be_allocated(self) -> TensorSpec:
        if prod(self.shape) * self.multiples > MAX_ELEMENTS:
            raise ValueError(
                f"tensor {self.name}: at most {MAX_ELEMENTS} elements are expected, "
                f"received shape {list(self.shape)}, {self.multiples} times"
            )
        return self

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be given or returned."""
        if self.multiples == 1:
            return shape == self.shape
        times, rest = divmod(shape[1] if len(shape) > 1 else 0, self.shape[1])
        others = shape[:1] + shape[2:] == self.shape[:1] + self.shape[2:]
        return others and rest == 0 and 1 <= times <= self.multiples


def _check_relative(path: str) -> str:
    """A path below the bundle's folder, with forward slashes; anything else is refused."""
    unsafe = (
        "\\" in path
        or ":" in path
        or any(ord(character) < 32 for character in path)
        or any(part in ("", ".", "..") for part in path.split("/"))
    )
    if unsafe:
        raise ValueError(
            f"a path below the bundle is expected (no '..', absolute or back-slashed), received {path!r}"
        )
    return path


BundlePath = Annotated[str, AfterValidator(_check_relative)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(ContractModel):
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: NonNegativeInt
    sha256: Sha256
