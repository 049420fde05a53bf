"""OpenVINO as a second engine, by its own package beside onnxruntime: a session like ONNX Runtime's on the same file.

Graphs run on the CPU. Compiled ones are kept by OpenVINO itself, with a copy of the weights, in a folder that this
user alone can write and whose name is a fingerprint: of the graph's files, the processor, the arithmetic and OpenVINO's
version. Large ones are compiled anew, which takes no longer than reading them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.bundle.tensors import ONNX_TYPES
from dreamcache.runtime.sessions.kept_graphs import is_private, processor_facts
from dreamcache.runtime.untrusted import utf8_path

INSTALL = "pip install 'dreamcache[openvino]'"
_MOST_KEPT_BYTES = 1 << 30


def has_openvino() -> bool:
    """Whether the package is installed; it is not imported."""
    return find_spec("openvino") is not None


@dataclass(frozen=True)
class Port:
    """An input or output as ONNX Runtime's sessions describe theirs."""

    name: str
    shape: list[int | str]
    type: str


class OpenVinoSession:
    """What the runner asks of a session: `get_inputs`, `get_outputs`, `run`."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()
        self._inputs, self._outputs = list(compiled.inputs), list(compiled.outputs)

    def get_inputs(self) -> list[Port]:
        return [_describe(port) for port in self._inputs]

    def get_outputs(self) -> list[Port]:
        return [_describe(port) for port in self._outputs]

    def run(self, wanted: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the order asked for; views of OpenVINO's own memory until the next run."""
        self._request.infer(dict(feed))
        return [self._request.get_tensor(name).data for name in wanted]


def open_openvino(
    bundle: Bundle, spec: GraphSpec, *, fast: bool, threads: int | None, folder: Path
) -> OpenVinoSession:
    """Compile a graph, or read the kept form of it.

    fast: bf16 in the place of fp32. threads: None leaves the number to OpenVINO. folder: where compiled graphs
    are kept.
    Raises: OpenVINO's errors.
    """
    import openvino

    settings = engine_settings(fast)
    file = spec.portable or spec.file
    kept = folder / f"openvino-{_fingerprint(bundle, spec, {**settings, 'openvino': openvino.__version__})}"
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    weights = sum(bundle.contract.files[path].size for path in spec.weights)
    if weights <= _MOST_KEPT_BYTES and _make_private(kept):
        settings["CACHE_DIR"] = utf8_path(kept)
    return OpenVinoSession(openvino.Core().compile_model(utf8_path(bundle.path(file)), "CPU", settings))


def engine_settings(fast: bool) -> dict[str, Any]:
    """OpenVINO's properties for a graph; fast: bf16 in the place of fp32."""
    # "exact" is said too: OpenVINO computes in bf16 by itself where the CPU has it.
    return {"INFERENCE_PRECISION_HINT": "bf16" if fast else "f32", "PERFORMANCE_HINT": "LATENCY"}


def _fingerprint(bundle: Bundle, spec: GraphSpec, settings: Mapping[str, Any]) -> str:
    files = bundle.contract.files
    facts = {
        "files": {path: files[path].sha256 for path in (*spec.files, *spec.weights)},
        "processor": processor_facts(),
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _make_private(folder: Path) -> bool:
    """Whether there is a folder that only this user can write."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return not folder.is_symlink() and is_private(folder.stat())
    except OSError:
        return False


def _describe(port: Any) -> Port:
    shape = [length.get_length() if length.is_static else "?" for length in port.partial_shape]
    dtype = np.dtype(port.element_type.to_dtype()).name
    return Port(port.any_name, shape, f"tensor({cast(dict[str, str], ONNX_TYPES).get(dtype, dtype)})")
