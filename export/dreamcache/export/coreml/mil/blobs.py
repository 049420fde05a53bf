"""Reading constants from a MIL weight file, checked before anything is allocated.

Format (coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp): a header of 64 bytes, then for each blob 64 bytes of
metadata (sentinel, type code, size in bytes, offset of the data, bits of padding) and its data, all little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.errors import ExportError

_HEADER = struct.Struct("<II")
_METADATA = struct.Struct("<IIQQQ")
_METADATA_BYTES = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2

_WHOLE: dict[int, np.dtype[np.generic]] = {
    1: np.dtype(np.float16),
    2: np.dtype(np.float32),
    3: np.dtype(np.uint8),
    4: np.dtype(np.int8),
    6: np.dtype(np.int16),
    7: np.dtype(np.uint16),
    14: np.dtype(np.int32),
    15: np.dtype(np.uint32),
}
_PACKED = {8: (4, True), 9: (1, False), 10: (2, False), 11: (4, False), 12: (3, False), 13: (6, False)}
"""Type codes of values that share bytes: bits of each, and whether they are signed."""


class WeightFile:
    """A mapped weight file.

    Raises:
        ExportError: no weight file, or one of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.stat().st_size < _METADATA_BYTES:
            raise ExportError(f"{path}: truncated before its header ends")
        self._bytes: NDArray[np.uint8] = np.memmap(path, np.uint8, "c")
        _, version = _HEADER.unpack_from(self._bytes.data, 0)
        if version != _VERSION:
            raise ExportError(f"{path}: weight format {version} is not known, {_VERSION} is")

    def read(self, offset: int, count: int) -> NDArray[np.generic]:
        """`count` values of the blob whose metadata begins at `offset`.

        Raises:
            ExportError: it is not a blob, has another size, or ends after the file.
        """
        size = self._bytes.size
        if offset % _METADATA_BYTES or offset + _METADATA_BYTES > size:
            raise ExportError(f"{self._path}: no blob can begin at {offset}")
        sentinel, code, length, start, padding = _METADATA.unpack_from(self._bytes.data, offset)
        if sentinel != _SENTINEL:
            raise ExportError(
                f"{self._path}: expected a blob at {offset}, received other bytes; was it edited?"
            )
        if start + length > size:
            raise ExportError(f"{self._path}: truncated, a blob ends at {start + length} of {size} bytes")
        data = self._bytes[start : start + length]
        if code in _WHOLE:
            dtype = _WHOLE[code]
            if length != count * dtype.itemsize:
                raise ExportError(
                    f"{self._path}: a blob of {count * dtype.itemsize} bytes is expected at {offset}, "
                    f"received {length}"
                )
            return data.view(dtype)
        if code not in _PACKED:
            raise ExportError(f"{self._path}: type code {code} of the blob at {offset} is not known")
        bits, signed = _PACKED[code]
        if 8 * length - padding != count * bits:
            raise ExportError(
                f"{self._path}: a blob of {count} values of {bits} bits is expected at {offset}, "
                f"received {8 * length - padding} bits"
            )
        return unpack(data, bits, count, signed)


def unpack(data: NDArray[np.uint8], bits: int, count: int, signed: bool = False) -> NDArray[np.generic]:
    """`count` values of `bits` bits each, the lowest bits of the first byte first."""
    stream = np.unpackbits(data, bitorder="little")[: count * bits].reshape(count, bits)
    values = np.packbits(stream, axis=1, bitorder="little")[:, 0]
    if not signed:
        return values
    return (values.astype(np.int8) ^ (1 << (bits - 1))) - np.int8(1 << (bits - 1))
