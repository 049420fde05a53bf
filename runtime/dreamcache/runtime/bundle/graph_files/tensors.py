"""Stored tensors of an ONNX file: what they need, where they lie, whether they are finite.

ONNX Runtime accepts NaN weights, truncated external data and lengths that contradict shapes. The forms of storage
read here are the ones that a bundle may use: raw bytes, packed numbers of the tensor's own type, and external data.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, prod
from pathlib import Path

import numpy as np

from dreamcache.runtime.bundle.graph_files.wire import (
    BYTES,
    message_fields,
    packed_varints,
    signed,
    submessage,
    text,
)
from dreamcache.runtime.errors import BundleError

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
_BFLOAT16, _INT64, _INT32 = 16, 7, 6

_TENSOR = {
    1: "dims", 2: "data_type", 4: "float_data", 5: "int32_data", 7: "int64_data", 8: "name", 9: "raw_data",
    10: "double_data", 11: "uint64_data", 12: "doc_string", 13: "external_data", 14: "data_location",
    16: "metadata_props",
}  # fmt: skip
_ENTRY = {1: "key", 2: "value"}
# Field of typed data -> the data types that it may hold; 16-bit floats written as integers are not among them.
_TYPED = {4: (1,), 5: (2, 3, 4, 5, 6, 9), 7: (7,), 10: (11,), 11: (12, 13)}
_INTEGERS = (5, 7, 11)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: `location` is None for data inside the ONNX file, where `data` is that data.

    data: little-endian elements, or packed varints where `packed` says so.
    """

    name: str
    shape: tuple[int, ...]
    data_type: int
    location: str | None
    offset: int
    length: int | None
    data: memoryview | None
    packed: bool = False

    @property
    def size(self) -> int:
        """Bytes that shape and type need."""
        return (prod(self.shape) * _BITS[self.data_type] + 7) // 8

    def integers(self) -> list[int] | None:
        """The values of an integer tensor inside the file, as shapes are stored; None for any other."""
        if self.data_type not in (_INT64, _INT32) or self.location is not None:
            return None
        data = memoryview(b"") if self.data is None else self.data
        if self.packed:
            return packed_varints(data)
        return [int(value) for value in np.frombuffer(data, "<i8" if self.data_type == _INT64 else "<i4")]

    def floats(self) -> list[float]:
        """The values of a float tensor inside the file, as scales are stored; [inf] for any other."""
        if self.data_type != 1 or self.data is None:
            return [inf]
        return [float(value) for value in np.frombuffer(self.data, "<f4")]


def read_tensor(message: memoryview) -> StoredTensor:
    """One `TensorProto`. Raises: ValueError, IndexError when it is damaged or stored in another form."""
    shape: list[int] = []
    external: dict[str, str] = {}
    data_type, name, data, stored_as = 0, "", None, 0
    for number, kind, value in message_fields(message, _TENSOR, "a tensor"):
        if number == 1:
            shape.extend([signed(value)] if isinstance(value, int) else packed_varints(value))
        elif number == 2 and isinstance(value, int):
            data_type = value
        elif number == 8:
            name = text(value)
        elif number == 9 or number in _TYPED:
            if data is not None or kind != BYTES or isinstance(value, int):
                raise ValueError(f"tensor {name!r} is stored in pieces")
            data, stored_as = value, number
        elif number == 13:
            entry = {field: text(part) for field, _, part in message_fields(submessage(value), _ENTRY, name)}
            if (key := entry.get(1, "")) in external:
                raise ValueError(f"tensor {name!r} says its {key} twice")
            external[key] = entry.get(2, "")
    length = external.get("length")
    tensor = StoredTensor(
        name=name,
        shape=tuple(shape),
        data_type=data_type,
        location=external.get("location"),
        offset=int(external.get("offset", "0")),
        length=None if length is None else int(length),
        data=data,
        packed=stored_as in _INTEGERS,
    )
    if data_type not in _BITS:
        raise ValueError(f"tensor {name!r} has data type {data_type}, which no bundle uses")
    if min((*shape, tensor.offset, tensor.length or 0), default=0) < 0:
        raise ValueError(f"tensor {name!r} has a negative size or place")
    if stored_as in _TYPED and data_type not in _TYPED[stored_as]:
        raise ValueError(f"tensor {name!r} of type {data_type} is stored as {_TENSOR[stored_as]}")
    return tensor


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


def check_needed(needed: int, held: int) -> None:
    """Tensors need at most twice the bytes of the files that hold them: a megabyte can be named ten thousand times.

    Raises: ValueError.
    """
    if needed > 2 * held:
        raise ValueError(f"its tensors need {needed} bytes and its files hold {held}")


def check_location(tensor: StoredTensor, folder: Path, allowed: set[str]) -> None:
    """External data must be an allowed file, lie inside it and be as long as its shape needs.

    Raises: BundleError.
    """
    wanted = tensor.size
    if tensor.location is None:
        held = 0 if tensor.data is None else len(tensor.data)
        if not tensor.packed and held != wanted:
            raise BundleError(
                f"weight {tensor.name} of shape {list(tensor.shape)} needs {wanted} bytes, received {held}; "
                "export the bundle again"
            )
        return
    if tensor.location not in allowed:
        raise BundleError(
            f"weight {tensor.name} is stored in {tensor.location!r}, which the contract does not name "
            "for its graph; export the bundle again"
        )
    try:
        held = (folder / tensor.location).stat().st_size
    except OSError as error:
        raise BundleError(
            f"{tensor.location} is missing from {folder}; export or copy the bundle again"
        ) from error
    length = held - tensor.offset if tensor.length is None else tensor.length
    if tensor.offset + length > held or length != wanted:
        raise BundleError(
            f"weight {tensor.name} of shape {list(tensor.shape)} needs {wanted} bytes, "
            f"received {length} at {tensor.offset} of {held} in {tensor.location}; export it again"
        )
