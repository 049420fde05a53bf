"""Whether this processor's 8-bit products overflow, found by multiplying a few numbers.

x86 processors before VNNI add pairs of products of unsigned and signed 8-bit numbers in 16 bits, which saturate: a
picture in 8 bits falls apart. ONNX Runtime's session entry `session.x64quantprecision` stores weights as unsigned
numbers instead: right everywhere, but on processors whose sums are whole it halves the speed and copies every weight
(onnxruntime_session_options_config_keys.h).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

GUARD = ("session.x64quantprecision", "1")
"""Entry of a session's configuration: unsigned weights, whose sums cannot overflow."""

_ROWS, _DEPTH, _COLUMNS = 2, 64, 32
# One MatMulInteger (opset 10): a uint8 [2, 64] · b int8 [64, 32] → c int32 [2, 32]. The runner has no ONNX writer.
_PRODUCT = (
    b'\x08\x07\x12\x00:_\n\x18\n\x01a\n\x01b\x12\x01c"\rMatMulInteger\x12\x04sums'
    b"Z\x13\n\x01a\x12\x0e\n\x0c\x08\x02\x12\x08\n\x02\x08\x02\n\x02\x08@"
    b"Z\x13\n\x01b\x12\x0e\n\x0c\x08\x03\x12\x08\n\x02\x08@\n\x02\x08 "
    b"b\x13\n\x01c\x12\x0e\n\x0c\x08\x06\x12\x08\n\x02\x08\x02\n\x02\x08 B\x04\n\x00\x10\n"
)

Product = Callable[[NDArray[np.uint8], NDArray[np.int8]], NDArray[np.int32]]


def sums_saturate(product: Product) -> bool:
    """Whether a product of the largest 8-bit numbers misses its sum.

    product: a uint8 [2, 64], b int8 [64, 32] → int32 [2, 32].
    """
    largest = np.full((_ROWS, _DEPTH), 255, np.uint8), np.full((_DEPTH, _COLUMNS), 127, np.int8)
    return bool((product(*largest) != 255 * 127 * _DEPTH).any())


@cache
def guard_entries() -> tuple[tuple[str, str], ...]:
    """Session entries that 8-bit graphs need on this processor: the guard where sums saturate, else none.

    The product runs once in a process (about a millisecond).
    """
    return (GUARD,) if sums_saturate(_product_here) else ()


def _product_here(a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int32]:
    """The product by ONNX Runtime's own kernel, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(_PRODUCT, options, providers=["CPUExecutionProvider"])
    sums: NDArray[np.int32] = session.run(None, {"a": a, "b": b})[0]
    return sums
