"""Expanding compressed weights, as Core ML does when it loads a program.

Source: coremltools, `converters/mil/mil/ops/defs/iOS18/compression.py` and `iOS16/constexpr_ops.py`. Forms are told
apart by their parameters: iOS 16's carry other names.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from dreamcache.export.coreml.mil.arguments import Arguments
from dreamcache.export.coreml.mil.blobs import unpack
from dreamcache.export.coreml.mil.operators import operator
from dreamcache.export.errors import ExportError


@operator("constexpr_blockwise_shift_scale")
def _blockwise(given: Arguments) -> Tensor:
    """scale · (data - offset), a scale for each block of the data."""
    data, scale = given.tensor("data").float(), given.tensor("scale")
    scaled = data - _spread(given.tensor("offset").float(), data) if "offset" in given else data
    return _spread(scale, data) * scaled


@operator("constexpr_lut_to_dense")
def _palette(given: Arguments) -> Tensor:
    """Each index replaced by its entry in the table of its block."""
    return _palette_ios16(given) if "shape" in given else _palette_ios18(given)


@operator("constexpr_affine_dequantize")
def _affine(given: Arguments) -> Tensor:
    """iOS 16: scale · (data - zero point), along one axis."""
    data = given.tensor("quantized_data").float()
    axis = given.number("axis")
    shape = [-1 if index == axis % data.ndim else 1 for index in range(data.ndim)]
    scale, zero = (
        value.float().reshape(shape) if value.ndim else value.float()
        for value in (given.tensor("scale"), given.tensor("zero_point"))
    )
    return scale * (data - zero)


def _palette_ios18(given: Arguments) -> Tensor:
    indices, table = given.tensor("indices").long(), given.tensor("lut")
    if table.shape[-1] != 1:
        raise ExportError("constexpr_lut_to_dense of vectors is not known; scalars are")
    entries = table.shape[-2]
    # Each index's block, counted over all blocks.
    block = torch.zeros_like(indices)
    for axis, blocks in enumerate(table.shape[:-2]):
        size = indices.shape[axis]
        place = torch.arange(size) // (size // blocks)
        block = block * blocks + place.reshape([-1 if axis == other else 1 for other in range(indices.ndim)])
    return table.reshape(-1)[block * entries + indices]


def _palette_ios16(given: Arguments) -> Tensor:
    """Indices in one stream of bits, one table for all."""
    shape, table = given.numbers("shape"), given.tensor("lut")
    bits = (table.numel() - 1).bit_length()
    packed: Any = given.tensor("indices").to(torch.uint8).numpy().reshape(-1)
    if 8 * packed.size < bits * prod(shape):
        raise ExportError(f"constexpr_lut_to_dense: {prod(shape)} indices of {bits} bits are expected")
    indices = torch.from_numpy(unpack(packed, bits, prod(shape)).astype("int64"))
    return table.reshape(-1)[indices].reshape(shape)


def _spread(value: Tensor, like: Tensor) -> Tensor:
    """One value for each element of `like`."""
    for axis, (size, blocks) in enumerate(zip(like.shape, value.shape, strict=True)):
        if size % blocks:
            raise ExportError(f"{blocks} blocks do not divide {size} values")
        if blocks not in (1, size):
            value = value.repeat_interleave(size // blocks, axis)
    return value
