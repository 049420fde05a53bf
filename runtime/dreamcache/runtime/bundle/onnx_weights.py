"""Which tensors an ONNX file stores and where, read straight from the protobuf wire format.

The runner does not install the `onnx` package, and ONNX Runtime accepts NaN weights, truncated external
data and lengths that contradict shapes. This reads just enough to check them: the initialisers and
constant attributes of `ModelProto` (field numbers: onnx/onnx.proto; wire format: protobuf.dev/encoding).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from dreamcache.runtime.errors import BundleError

_MAX_DEPTH = 16

# TensorProto.DataType -> bits per element, for the types that a diffusion model can hold.
_BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    16: 16,
    21: 4,
    22: 4,
}
_FLOATS: dict[int, np.dtype[np.floating]] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 11: np.dtype("<f8")}
_BFLOAT16 = 16
_FLOAT_DATA, _RAW_DATA, _DOUBLE_DATA = 4, 9, 10


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: `location` is None for data inside the ONNX file, where `data` is that data."""

    name: str
    shape: tuple[int, ...]
    data_type: int
    location: str | None
    offset: int
    length: int | None
    data: memoryview | None

    @property
    def size(self) -> int | None:
        """Bytes that shape and type need; None for an unknown type."""
        bits = _BITS.get(self.data_type)
        return None if bits is None else (prod(self.shape) * bits + 7) // 8


def stored_tensors(path: Path) -> Iterator[StoredTensor]:
    """Every stored tensor of an ONNX file, without copying it.

    Raises: BundleError when the file is not an ONNX protobuf.
    """
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            raise BundleError(f"{path.name} is empty, an ONNX graph is expected; export the bundle again")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    yield from tensors_in(memoryview(mapped), path.name)


def tensors_in(model: memoryview, name: str) -> Iterator[StoredTensor]:
    """Every stored tensor of an ONNX model in memory; `name` is for the error.

    Raises: BundleError when it is not an ONNX protobuf.
    """
    try:
        for number, value in _fields(model):
            if number == 7 and isinstance(value, memoryview):
                yield from _graph_tensors(value, 0)
    except (IndexError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{name} is not a readable ONNX graph ({error}); export it again") from error


def is_finite(tensor: StoredTensor, folder: Path) -> bool:
    """True when no element is NaN or infinite; integer tensors always are.

    The caller has checked with `check_location` that the data lies inside its file.
    """
    if tensor.data_type not in _FLOATS and tensor.data_type != _BFLOAT16:
        return True
    data = tensor.data
    if tensor.location is not None:
        if not tensor.size:
            return True
        mapped = np.memmap(
            folder / tensor.location, np.uint8, "r", offset=tensor.offset, shape=(tensor.size,)
        )
        data = mapped.data
    if data is None:
        return True
    if tensor.data_type == _BFLOAT16:
        exponent = np.frombuffer(data, "<u2") & 0x7F80
        return bool((exponent != 0x7F80).all())
    return bool(np.isfinite(np.frombuffer(data, _FLOATS[tensor.data_type])).all())


def check_location(tensor: StoredTensor, folder: Path, allowed: set[str]) -> None:
    """External data must be an allowed file, lie inside it and be as long as its shape needs.

    Raises: BundleError.
    """
    if tensor.location is None:
        return
    if tensor.location not in allowed:
        raise BundleError(
            f"weight {tensor.name} is stored in {tensor.location!r}, which the contract does not name "
            "for its graph; export the bundle again"
        )
    held = (folder / tensor.location).stat().st_size
    length = held - tensor.offset if tensor.length is None else tensor.length
    wanted = tensor.size
    if tensor.offset + length > held or (wanted is not None and length != wanted):
        raise BundleError(
            f"weight {tensor.name} of shape {list(tensor.shape)} needs {wanted} bytes, "
            f"received {length} at {tensor.offset} of {held} in {tensor.location}; export it again"
        )


def _graph_tensors(graph: memoryview, depth: int) -> Iterator[StoredTensor]:
    if depth > _MAX_DEPTH:
        raise ValueError("graphs nested too deeply")
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == 5:
            yield _tensor(value)
        elif number == 1:
            for field, attribute in _fields(value):
                if field == 5 and isinstance(attribute, memoryview):
                    yield from _attribute_tensors(attribute, depth)


def _attribute_tensors(attribute: memoryview, depth: int) -> Iterator[StoredTensor]:
    for number, value in _fields(attribute):
        if not isinstance(value, memoryview):
            continue
        if number in (5, 10):
            yield _tensor(value)
        elif number in (6, 11):
            yield from _graph_tensors(value, depth + 1)


def _tensor(message: memoryview) -> StoredTensor:
    shape: list[int] = []
    external: dict[str, str] = {}
    data_type, name, data = 0, "", None
    for number, value in _fields(message):
        if number == 1:
            shape.extend(_varints(value) if isinstance(value, memoryview) else [value])
        elif number == 2 and isinstance(value, int):
            data_type = value
        elif not isinstance(value, memoryview):
            continue
        elif number == 8:
            name = str(value, "utf-8")
        elif number in (_FLOAT_DATA, _RAW_DATA, _DOUBLE_DATA):
            data = value
        elif number == 13:
            entry = {
                field: str(part, "utf-8") for field, part in _fields(value) if isinstance(part, memoryview)
            }
            external[entry.get(1, "")] = entry.get(2, "")
    length = external.get("length")
    return StoredTensor(
        name=name,
        shape=tuple(shape),
        data_type=data_type,
        location=external.get("location"),
        offset=int(external.get("offset", "0")),
        length=None if length is None else int(length),
        data=data,
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value of each field: an int for varints, the bytes for everything else."""
    position, end = 0, len(message)
    while position < end:
        tag, position = _varint(message, position)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} is not expected")
        if position + size > end:
            raise ValueError("the file ends inside a field")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number is longer than ten bytes")


def _varints(packed: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(packed):
        value, position = _varint(packed, position)
        values.append(value)
    return values
