"""From activations that were seen to the interval that 8 bits stand for.

Sampled values of every run are kept, and the interval is the one with the least squared error on them: wide enough
for what matters, narrow enough that single outliers do not cost everybody a bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from dreamcache.export.graphs.session import open_session
from dreamcache.export.int8.layers import find_layers
from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.sessions.session import GraphSession


@dataclass(frozen=True)
class Range:
    """The interval of values that a tensor's 8 bits stand for; it holds 0."""

    low: float
    high: float

    @property
    def scale(self) -> np.float32:
        """Step between two neighbours."""
        return np.float32(max(self.high - self.low, 1e-8) / 255.0)

    @property
    def zero_point(self) -> np.uint8:
        """The code of 0."""
        return np.uint8(np.clip(np.round(-self.low / float(self.scale)), 0, 255))


def input_of(layer: str) -> str:
    """Under which name the range of a layer's input is kept."""
    return f"{layer}, input"


def output_of(layer: str) -> str:
    """Under which name the range of a layer's output is kept."""
    return f"{layer}, output"


SAMPLES_A_RUN = 4096
_SHRINKS = np.linspace(0.3, 1.0, 29)

Array = NDArray[np.float32]


class Observer:
    """Collects values of tensors over many runs."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._values: dict[str, list[Array]] = {}

    def see(self, tensors: Mapping[str, Array]) -> None:
        """Keep a sample of each tensor, its least and its greatest value."""
        for name, array in tensors.items():
            flat = array.ravel()
            if len(flat) > SAMPLES_A_RUN:
                picked = flat[self._random.integers(0, len(flat), SAMPLES_A_RUN)]
                flat = np.concatenate([picked, [flat.min(), flat.max()]]).astype(np.float32)
            self._values.setdefault(name, []).append(flat.copy())

    def ranges(self) -> dict[str, Range]:
        """The best interval of every tensor seen.

        Raises:
            ValueError: a tensor held NaN or infinite values.
        """
        found = {}
        for name, seen in self._values.items():
            values = np.concatenate(seen)
            if not np.isfinite(values).all():
                raise ValueError(f"{name} took NaN or infinite values")
            found[name] = best_range(values)
        return found


def best_range(values: Array) -> Range:
    """The interval with the least squared error on `values` [n] after rounding to 256 levels."""
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if low == high:
        return Range(0.0, 1.0)
    best = Range(low, high)
    least = squared_error(values, best)
    for shrink_low in (True, False):
        start = best
        for shrink in _SHRINKS:
            tried = (
                Range(start.low * shrink, start.high) if shrink_low else Range(start.low, start.high * shrink)
            )
            error = squared_error(values, tried)
            if error < least:
                best, least = tried, error
    return best


def squared_error(values: Array, interval: Range) -> float:
    """Mean squared error of `values` [n] rounded to the interval's 256 levels."""
    scale, zero = float(interval.scale), float(interval.zero_point)
    codes = np.clip(np.round(values / scale) + zero, 0, 255)
    return float(np.mean((values - (codes - zero) * scale) ** 2))


def expose_activations(model: ir.Model, path: Path, *, products: bool = False) -> dict[str, list[str]]:
    """Write to `path` a copy of a graph that gives every convolution's input and output too.

    Args:
        model: left as it is.
        path: where the copy goes.
        products: whether it gives the inputs of matrix products as well.

    Returns:
        By tensor, whose input or output it is (see `input_of`).
    """
    copy = model.clone()
    layers = find_layers(copy)
    observed: dict[str, list[str]] = {}
    outputs = {value.name for value in copy.graph.outputs}
    for node in copy.graph:
        layer = layers.get(node.name or "")
        if layer is None or layer.kind == "embedding" or (layer.kind == "product" and not products):
            continue
        places = [(node.inputs[0], input_of(layer.name))]
        if layer.kind == "convolution":
            places.append((node.outputs[0], output_of(layer.name)))
        for value, place in places:
            assert value is not None
            assert value.name is not None
            if value.name not in observed and value.name not in outputs:
                value.type = ir.TensorType(ir.DataType.FLOAT)
                copy.graph.outputs.append(value)
            observed.setdefault(value.name, []).append(place)
    ir.save(copy, path)
    return observed


def ranges_by_layer(ranges: dict[str, Range], observed: dict[str, list[str]]) -> dict[str, Range]:
    """Ranges by tensor to ranges by the layers that they belong to."""
    return {place: ranges[tensor] for tensor, places in observed.items() for place in places}


class ObservedGraph(GraphSession):
    """A graph with more outputs than declared, which an observer sees."""

    def __init__(
        self, name: str, spec: GraphSpec, session: Any, observed: Sequence[str], observer: Observer
    ) -> None:
        super().__init__(name, spec, session)
        self._declared = [output.name for output in spec.outputs]
        self._all = list(dict.fromkeys([*self._declared, *observed]))
        self._observed, self._observer, self._open = observed, observer, session

    def run(
        self, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """As `GraphSession.run`; what is observed goes to the observer."""
        del wanted
        feed = {
            name: np.ascontiguousarray(inputs[name]) for name in (i.name for i in self._open.get_inputs())
        }
        results = dict(zip(self._all, self._open.run(self._all, feed), strict=True))
        self._observer.see({name: results[name] for name in self._observed})
        return {name: results[name] for name in self._declared}


def open_observed(
    name: str, path: Path, spec: GraphSpec, observed: Sequence[str], observer: Observer
) -> ObservedGraph:
    """A session on a graph that `expose_activations` wrote; `observer` sees the `observed` tensors after each run.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    return ObservedGraph(name, spec, open_session(name, path), observed, observer)
