"""One weights file for several graphs: every tensor written once, aligned, found by its content.

Both graphs hold the same UNet. ONNX refuses external data outside the graph's own folder, so graphs that
share a file live in one folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dreamcache.export.errors import ExportError

INLINE_BYTES = 256
"""Smaller tensors stay in the graph: shape inference wants to read them."""
SMALL_ALIGNMENT = 64
"""A cache line, and the widest vector register."""
PAGE_ALIGNMENT = 4096
"""A page, so that a large weight can be mapped by itself."""
PAGED_BYTES = 1 << 20
"""From this size on a tensor is page-aligned; for smaller ones the padding would show."""


@dataclass(frozen=True)
class SharedFile:
    """What was written.

    Attributes:
        weights_bytes: size of the weights file.
        first_weights_bytes: how much of it the first graph alone would need.
    """

    weights_bytes: int
    first_weights_bytes: int


def write_shared(folder: Path, graphs: Mapping[str, ir.Model], weights_name: str) -> SharedFile:
    """Write graphs into one folder with one weights file; the models are changed to refer to it.

    Args:
        folder: must not hold the files yet.
        graphs: file name to model; the first one's tensors come first in the weights file.
        weights_name: the weights file.

    Raises:
        ExportError: a file exists already (ONNX tools would append to it).
    """
    for name in (*graphs, weights_name):
        if (folder / name).exists():
            raise ExportError(f"{folder / name} exists already; export into a fresh folder")
    first_end: int | None = None
    with (folder / weights_name).open("wb") as file:
        store = _Store(file)
        for model in graphs.values():
            for value in list(model.graph.initializers.values()):
                _move_out(value, store, folder, weights_name)
            first_end = file.tell() if first_end is None else first_end
        end = file.tell()
    for name, model in graphs.items():
        ir.save(model, folder / name)
    assert first_end is not None
    return SharedFile(end, first_end)


def rewrite_shared(place: Path, graphs: Mapping[str, ir.Model], weights_name: str) -> None:
    """As `write_shared`, in the place of everything that the folder holds.

    Args:
        place: the folder; models may still read weights from what lies there.
        graphs: file name to model.
        weights_name: the weights file.
    """
    fresh = place / "fresh"
    fresh.mkdir()
    write_shared(fresh, graphs, weights_name)
    for stored in place.iterdir():
        if stored != fresh:
            stored.unlink()
    for written in fresh.iterdir():
        written.replace(place / written.name)
    fresh.rmdir()


class _Store:
    """What stands in an open weights file, found by its content; and by its place in memory, to read it once."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[str, tuple[int, int]] = {}
        self._seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], tuple[int, int]] = {}
        # While an array lives, nothing else can come to lie where it does.
        self._alive: list[NDArray[Any]] = []
        self._made: dict[int, tuple[ir.LazyTensor, tuple[int, int]]] = {}

    def place(self, tensor: ir.TensorProtocol) -> tuple[int, int]:
        """As `put`; a tensor that is made when it is asked for is made once and not kept."""
        if not isinstance(tensor, ir.LazyTensor):
            return self.put(tensor.numpy())
        if id(tensor) not in self._made:
            self._made[id(tensor)] = tensor, self._written(_bytes_of(tensor.numpy()))
        return self._made[id(tensor)][1]

    def put(self, array: NDArray[Any]) -> tuple[int, int]:
        """Offset and length, in bytes, of an array's values."""
        memory = (array.ctypes.data, array.shape, array.strides)
        if memory not in self._seen:
            self._seen[memory] = self._written(_bytes_of(array))
            self._alive.append(array)
        return self._seen[memory]

    def _written(self, data: memoryview) -> tuple[int, int]:
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._places:
            alignment = PAGE_ALIGNMENT if len(data) >= PAGED_BYTES else SMALL_ALIGNMENT
            self._file.write(b"\0" * (-self._file.tell() % alignment))
            self._places[digest] = (self._file.tell(), len(data))
            self._file.write(data)
        return self._places[digest]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _move_out(value: ir.Value, store: _Store, folder: Path, weights_name: str) -> None:
    tensor = value.const_value
    assert tensor is not None
    assert value.name is not None
    if tensor.nbytes < INLINE_BYTES:
        return
    offset, length = store.place(tensor)
    value.const_value = ir.ExternalTensor(
        location=weights_name,
        offset=offset,
        length=length,
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=value.name,
        base_dir=folder,
    )
