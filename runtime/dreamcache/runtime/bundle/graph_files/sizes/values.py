"""Numbers that a graph works shapes out with: small tensors whose values are known before it runs.

Exporters write sizes as `Shape`, `Gather`, `Concat` and a little arithmetic. These are computed here by numpy as ONNX
Runtime will compute them; anything else is unknown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.graph_files.nodes import Node
from dreamcache.runtime.bundle.graph_files.sizes.call import Call, Known, Shape, slice_of
from dreamcache.runtime.bundle.graph_files.tensors import StoredTensor

MOST_VALUES = 1024
"""Larger tensors are no shapes."""

_KINDS: dict[int, type[Any]] = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_}
"""TensorProto.DataType to what numpy computes it in."""


def stored_values(tensor: StoredTensor) -> Known:
    """The values of a small tensor in the file. Raises: ValueError where they do not fit to its shape."""
    kind = _KINDS.get(tensor.data_type)
    if kind is None or prod(tensor.shape) > MOST_VALUES or tensor.location is not None:
        return None
    if tensor.data_type == 1:
        return np.array(tensor.floats(), kind).reshape(tensor.shape)
    if tensor.packed:
        numbers = tensor.integers()
        return None if numbers is None else np.array(numbers, np.int64).astype(kind).reshape(tensor.shape)
    data = b"" if tensor.data is None else tensor.data
    return np.frombuffer(data, np.dtype(kind).newbyteorder("<")).astype(kind).reshape(tensor.shape)


def computed(call: Call, made: Shape) -> Known:
    """The values of a node's first output of shape `made`; None where they are not known."""
    node = call.node
    if prod(made) > MOST_VALUES or node.domain:
        return None
    if node.operator == "Shape":
        return np.array(call.first, np.int64)[node.whole("start", 0) : node.whole("end", len(call.first))]
    if node.operator == "Constant":
        return _attribute_values(node)
    values = [value for value, name in zip(call.known, node.inputs, strict=True) if name]
    given = [value for value in values if value is not None]
    if node.operator not in _COMPUTED or len(given) != len(values):
        return None
    with np.errstate(all="ignore"):
        found = _COMPUTED[node.operator](_Given(node, given, made))
    return None if found is None else np.asarray(found)


def _attribute_values(node: Node) -> Known:
    """Of a `Constant` that is no tensor."""
    for name, value in node.attributes.items():
        if name in ("value_int", "value_ints"):
            return np.array(value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.array(value, np.float32)
    return None


@dataclass(frozen=True)
class _Given:
    """A node, the values of its inputs and the shape of its output."""

    node: Node
    values: list[NDArray[Any]]
    made: Shape


_Way = Callable[[_Given], Known]


def _divided(given: _Given) -> Known:
    one, two = given.values
    if np.issubdtype(one.dtype, np.floating):
        return np.asarray(one / two)
    if not two.all():  # which would stop the process
        return None
    towards_zero = np.sign(one) * np.sign(two) * (np.abs(one) // np.abs(two))
    return np.asarray(towards_zero, one.dtype)


def _cast(given: _Given) -> Known:
    kind = _KINDS.get(given.node.whole("to", 0))
    return None if kind is None else given.values[0].astype(kind)


def _filled(given: _Given) -> Known:
    value = stored_values(given.node.tensors[0]) if given.node.tensors else np.zeros(1, np.float32)
    return None if value is None or value.size != 1 else np.full(given.made, value.reshape(-1)[0])


def _gathered(given: _Given) -> Known:
    array, places = given.values
    side = array.shape[given.node.whole("axis", 0)]
    inside = places.size == 0 or (places.min() >= -side and places.max() < side)
    return np.asarray(np.take(array, places, given.node.whole("axis", 0))) if inside else None


def _sliced(given: _Given) -> Known:
    array, *numbers = given.values
    if len(numbers) < 2 or len(given.values) != len(given.node.inputs):
        return None
    starts, ends, *others = (value.reshape(-1).tolist() for value in numbers)
    axes = others[0] if others else list(range(len(starts)))
    steps = others[1] if len(others) > 1 else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        array = array.take(np.array(slice_of(array.shape[axis], start, end, step), np.int64), axis)
    return array


def _by(way: Callable[..., Any]) -> _Way:
    return lambda given: np.asarray(way(*given.values))


def _among(way: Callable[[Any, Any], Any]) -> _Way:
    return lambda given: np.asarray(reduce(way, given.values))


def _reshaped(given: _Given) -> Known:
    return given.values[0].reshape(given.made)


_COMPUTED: dict[str, _Way] = {
    "Add": _by(np.add),
    "And": _by(np.logical_and),
    "Cast": _cast,
    "Ceil": _by(np.ceil),
    "Concat": lambda given: np.concatenate(given.values, given.node.whole("axis", 0)),
    "ConstantOfShape": _filled,
    "Div": _divided,
    "Equal": _by(np.equal),
    "Expand": lambda given: np.broadcast_to(given.values[0], given.made),
    "Floor": _by(np.floor),
    "Gather": _gathered,
    "Greater": _by(np.greater),
    "Identity": _reshaped,
    "Less": _by(np.less),
    "Max": _among(np.maximum),
    "Min": _among(np.minimum),
    "Mul": _by(np.multiply),
    "Neg": _by(np.negative),
    "Not": _by(np.logical_not),
    "Or": _by(np.logical_or),
    "Reshape": _reshaped,
    "Slice": _sliced,
    "Squeeze": _reshaped,
    "Sub": _by(np.subtract),
    "Transpose": lambda given: given.values[0].transpose(given.node.wholes("perm")),
    "Unsqueeze": _reshaped,
    "Where": _by(np.where),
}
