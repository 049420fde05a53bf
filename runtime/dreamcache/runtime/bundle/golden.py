"""`check.safetensors`: what PyTorch computed, so that any device can check itself (docs/concepts/bundle.md).

An input may be stored smaller than the graph takes it, and is then repeated along each axis; of an output a fixed
sample of values is stored. Names are `CASE/input/TENSOR` and `CASE/output/TENSOR`, where a case is a graph's name or,
for a second run of the same graph, `GRAPH:VARIANT`, which has the inputs of the first run but for those of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.bundle.graphs import Graphs, GraphSpec
from dreamcache.runtime.errors import BundleError

Array = NDArray[Any]

CHECK_NAME = "check.safetensors"
MAX_CHECK_BYTES = 1 << 20
SAMPLE_SIZE = 1021
"""Values that are stored of a larger output; a prime, so that they fall on every column of a map."""
STOCK, NULL = "denoiser:stock", "denoiser:null"
"""The denoiser again: at strength 0, and with the null text."""
_FORMAT = "dreamcache-check-1"


@dataclass(frozen=True)
class GoldenCase:
    """One run of a graph. stored: its inputs as the file has them. outputs: samples, flat, by tensor."""

    spec: GraphSpec
    stored: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def inputs(self) -> dict[str, Array]:
        """The inputs whole, as the graph takes them."""
        return {tensor.name: repeated(self.stored[tensor.name], tensor.shape) for tensor in self.spec.inputs}


def spread_sample(output: Array) -> Array:
    """The values of an output that are compared, flat: all of a small one, else `SAMPLE_SIZE` at even distances."""
    return take_sample(output, min(output.size, SAMPLE_SIZE))


def take_sample(output: Array, count: int) -> Array:
    """`count` values of an output in C order: value i is at ⌊i · size / count⌋."""
    values: Array = output.reshape(-1)[np.arange(count) * output.size // count]
    return values


def repeated(stored: Array, shape: tuple[int, ...]) -> Array:
    """An input as the graph takes it: along each axis position i holds what is stored at i modulo its length."""
    places = [np.arange(want) % have for want, have in zip(shape, stored.shape, strict=True)]
    return stored[np.ix_(*places)]


def save_golden(place: Path, tensors: Mapping[str, Array]) -> None:
    """Write the file: tensors by `CASE/input/TENSOR` and `CASE/output/TENSOR`, in fp32 and whole numbers."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(array) for name, array in tensors.items()}, {"format": _FORMAT})
    assert len(data) <= MAX_CHECK_BYTES
    place.write_bytes(data)


def read_golden(bundle: Bundle) -> dict[str, GoldenCase]:
    """The cases of a bundle's file by name; none where an older bundle has no such file.

    Raises: BundleError for a file that is damaged or does not fit the bundle's graphs.
    """
    if CHECK_NAME not in bundle.contract.files:
        return {}
    return golden_cases(bundle.contract.graphs, _stored(bundle))


def golden_cases(graphs: Graphs, tensors: Mapping[str, Array]) -> dict[str, GoldenCase]:
    """The cases that tensors of these names make. Raises: BundleError where they do not fit the graphs."""
    specs, required = graphs.by_name(), _required(graphs)
    allowed = required | (specs.keys() & {"segmenter"})
    tree: dict[str, dict[str, dict[str, Array]]] = {}
    for name, array in tensors.items():
        case, _, rest = name.partition("/")
        kind, _, tensor = rest.partition("/")
        if case not in allowed or kind not in ("input", "output"):
            raise _damaged(
                f"an input or output of {', '.join(sorted(allowed))} is expected, received {name[:80]!r}"
            )
        tree.setdefault(case, {"input": {}, "output": {}})[kind][tensor] = array
    if missing := sorted(required - set(tree)):
        raise _damaged(f"every graph is expected, received none of {missing[0]}")
    cases = {}
    for case, found in tree.items():
        spec = specs[case.partition(":")[0]]
        given = tree[case.partition(":")[0]]["input"] | found["input"]
        _check_inputs(case, spec, given)
        _check_outputs(case, spec, found["output"])
        cases[case] = GoldenCase(spec, given, found["output"])
    return cases


def _required(graphs: Graphs) -> set[str]:
    """Strips, the shallow and the plain graph give what other graphs do; a segmenter came later."""
    texts = {"text_encoder"} if graphs.text_encoder_2 is None else {"text_encoder", "text_encoder_2"}
    return {*texts, "vae_encoder", "cache", "denoiser", STOCK, NULL, "vae_decoder"}


def _stored(bundle: Bundle) -> dict[str, Array]:
    from safetensors import SafetensorError, safe_open

    place = bundle.path(CHECK_NAME)
    if place.stat().st_size > MAX_CHECK_BYTES:
        raise _damaged(f"at most {MAX_CHECK_BYTES} bytes are expected, received {place.stat().st_size}")
    try:
        with safe_open(place, framework="numpy") as file:
            if (file.metadata() or {}).get("format") != _FORMAT:
                raise _damaged(f"the format {_FORMAT} is expected, received another")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError) as error:
        raise _damaged(f"a complete safetensors file is expected ({error})") from error


def _check_inputs(case: str, spec: GraphSpec, given: Mapping[str, Array]) -> None:
    declared = {tensor.name: tensor for tensor in spec.inputs}
    if set(given) != set(declared):
        odd = sorted(set(given) ^ set(declared))[0]
        raise _damaged(f"{case}: input {odd} is missing or unexpected")
    for name, tensor in declared.items():
        stored = given[name]
        fits = len(stored.shape) == len(tensor.shape) and all(
            1 <= have <= want for have, want in zip(stored.shape, tensor.shape, strict=True)
        )
        # Floats are stored wide, whatever the graph takes.
        wide = "float32" if tensor.dtype.startswith("float") else tensor.dtype
        if not fits or stored.dtype != np.dtype(wide) or not np.isfinite(stored).all():
            raise _damaged(
                f"{case}: input {name} of finite {wide} values, at most {list(tensor.shape)}, is expected, "
                f"received {list(stored.shape)} {stored.dtype}"
            )


def _check_outputs(case: str, spec: GraphSpec, given: Mapping[str, Array]) -> None:
    declared = {tensor.name: prod(tensor.shape) for tensor in spec.outputs}
    if spec.outputs[0].name not in given:
        raise _damaged(f"{case}: output {spec.outputs[0].name} is missing")
    for name, stored in given.items():
        size = declared.get(name, 0)
        fits = stored.ndim == 1 and 1 <= stored.size <= size and stored.dtype == np.float32
        if not fits or not np.isfinite(stored).all():
            raise _damaged(
                f"{case}: output {name} of 1 to {size} finite float32 values is expected, "
                f"received {list(stored.shape)} {stored.dtype}"
            )


def _damaged(problem: str) -> BundleError:
    return BundleError(f"{CHECK_NAME}: {problem}; export the bundle again")
