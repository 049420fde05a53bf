"""Weights as 8-bit integers with one scale for each output channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.int8.layers import Layer

Float = NDArray[np.float32]


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight as int8 with one scale for each output channel.

    Attributes:
        codes: as the node takes it: [out, in, k, k] for a convolution, [in, out] for a product,
            [rows, width] for an embedding.
        scales: [out]; of an embedding, [rows].
    """

    codes: NDArray[np.int8]
    scales: Float


def quantise_weight(layer: Layer, weight: Float) -> QuantisedWeight:
    """Symmetric, by output channel, rounded to nearest."""
    if layer.kind == "convolution":
        scales = _scales(np.abs(weight).max(axis=(1, 2, 3)))
        return QuantisedWeight(_codes(weight, scales[:, None, None, None]), scales)
    if layer.kind == "embedding":
        scales = _scales(np.abs(weight).max(axis=1))
        return QuantisedWeight(_codes(weight, scales[:, None]), scales)
    matrix = weight.T if layer.transposed else weight
    scales = _scales(np.abs(matrix).max(axis=0))
    return QuantisedWeight(np.ascontiguousarray(_codes(matrix, scales)), scales)


def _scales(largest: Float) -> Float:
    scales: Float = (np.maximum(largest, 1e-12) / 127.0).astype(np.float32)
    return scales


def _codes(weight: Float, scales: Float) -> NDArray[np.int8]:
    codes: NDArray[np.int8] = np.clip(np.round(weight / scales), -127, 127).astype(np.int8)
    return codes
