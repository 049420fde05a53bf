"""The protobuf wire format (protobuf.dev/encoding), as far as ONNX files need it; nothing is copied.

The runner does not install the `onnx` package, and what ONNX Runtime takes is more than a bundle may hold. So a
message is read with the list of its fields that are expected, and any other ends the reading.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""

Field = tuple[int, int, int | memoryview]
"""Number, wire type and value of a field: an int for varints, the bytes for everything else."""


def message_fields(message: memoryview, known: dict[int, str], where: str) -> Iterator[Field]:
    """The fields of a message.

    known: numbers and names of the fields that may stand in it. where: the message's name, for the error.
    Raises: ValueError, IndexError for bytes that are no message, ValueError for a field that is not known.
    """
    position, end = 0, len(message)
    while position < end:
        tag, position = read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        if number not in known:
            raise ValueError(f"{where} holds field {number}, which no bundle uses")
        if kind == VARINT:
            value, position = read_varint(message, position)
            yield number, kind, value
            continue
        if kind == BYTES:
            size, position = read_varint(message, position)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} is not expected")
        if position + size > end:
            raise ValueError("the file ends inside a field")
        yield number, kind, message[position : position + size]
        position += size


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number, and the position behind it."""
    value = message[position]
    if value < 0x80:  # nearly always
        return value, position + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
    raise ValueError("a number is longer than ten bytes")


def packed_varints(packed: memoryview) -> list[int]:
    """Numbers of a packed field, as signed 64-bit integers."""
    values, position = [], 0
    while position < len(packed):
        value, position = read_varint(packed, position)
        values.append(signed(value))
    return values


def signed(value: int) -> int:
    """A varint as the signed 64-bit integer that it stands for."""
    return value - (1 << 64) if value >> 63 else value


def text(value: int | memoryview) -> str:
    """A string field. Raises: ValueError when it is none."""
    if isinstance(value, int):
        raise ValueError("text is expected, received a number")
    return str(value, "utf-8")


def submessage(value: int | memoryview) -> memoryview:
    """A field that is a message. Raises: ValueError when it is none."""
    if isinstance(value, int):
        raise ValueError("a message is expected, received a number")
    return value
