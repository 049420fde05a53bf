"""Sessions of ONNX Runtime or OpenVINO, opened when a stage begins and closed when it ends.

A session is checked against the contract when it opens, so that everything after it can use the declared
names and shapes without asking. ONNX Runtime itself is imported with the first session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dreamcache.runtime.arguments import whole_number
from dreamcache.runtime.bundle.contract import GraphSpec, TensorSpec
from dreamcache.runtime.bundle.folder import Bundle
from dreamcache.runtime.bundle.tensors import ONNX_TYPES
from dreamcache.runtime.errors import BundleError, SettingsError, first_line
from dreamcache.runtime.sessions.allocator import release_freed
from dreamcache.runtime.sessions.kept_graphs import OptimisedGraph, graph_folder
from dreamcache.runtime.sessions.openvino import open_openvino
from dreamcache.runtime.sessions.profiles import (
    Profile,
    prepare_process,
    session_options,
)
from dreamcache.runtime.sessions.providers import ARM_BF16, OPENVINO, Math, short_name, wants_portable
from dreamcache.runtime.untrusted import utf8_path

Array = NDArray[Any]

_EVERY_STEP = {"denoiser", "shallow", "plain"}
MAX_THREADS = 1024


class RunnableGraph(Protocol):
    """What a denoiser asks of a graph."""

    def run(self, inputs: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Outputs by name, all or those that are wanted."""


class GraphSession:
    """One open graph. Inputs and outputs are those that the contract declares."""

    def __init__(self, name: str, spec: GraphSpec, session: Any) -> None:
        self._name = name
        self._spec = spec
        self._session = session
        _check_signature(name, spec.inputs, session.get_inputs(), "input")
        _check_signature(name, spec.outputs, session.get_outputs(), "output")

    def run(self, inputs: Mapping[str, Array], wanted: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the graph once.

        inputs: every declared input by name, of the declared shape; floats are cast to the declared dtype.
        wanted: names of the outputs to return; None is all that are declared.
        Returns: outputs by name.
        Raises: BundleError when the graph fails or gives another shape than declared.
        """
        outputs = [spec for spec in self._spec.outputs if wanted is None or spec.name in wanted]
        feed = {spec.name: _fit(spec, inputs[spec.name]) for spec in self._spec.inputs}
        try:
            results = self._session.run([output.name for output in outputs], feed)
        except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
            raise BundleError(f"graph {self._name} failed: {first_line(error)}") from error
        for spec, result in zip(outputs, results, strict=True):
            if not spec.takes(result.shape):
                raise BundleError(
                    f"graph {self._name}: {spec.name} {list(spec.shape)} is expected, "
                    f"received {list(result.shape)}; export the bundle again"
                )
        # What ONNX Runtime returns lies in its own memory, and keeps all of that alive beyond the session.
        return {spec.name: np.array(result) for spec, result in zip(outputs, results, strict=True)}


@dataclass(frozen=True)
class SessionOpener:
    """Opens the graphs of one bundle with chosen providers and threads.

    providers: full names ("CPUExecutionProvider"). threads: None leaves the number to ONNX Runtime.
    keep: leave each graph open after its first use, for many pictures in a row. profile: see `profiles.py`.
    graphs: where the memory profile keeps optimised graphs; None is the user's cache folder. math: as `check_math`
    allowed it.
    """

    bundle: Bundle
    providers: tuple[str, ...]
    threads: int | None = None
    keep: bool = False
    profile: Profile = "speed"
    graphs: Path | None = None
    math: Math = "exact"
    _kept: dict[str, GraphSession] = field(default_factory=dict, repr=False, compare=False)

    @contextmanager
    def open(self, name: str) -> Iterator[GraphSession]:
        """Open graph `name` of the contract; unless kept, its memory is released when the block ends.

        Raises: BundleError when ONNX Runtime refuses the graph or its signature is not the declared one;
        SettingsError when a provider does not start.
        """
        spec = self.bundle.contract.graphs.by_name()[name]
        graph = self._kept.get(name)
        if graph is None:
            prepare_process(self.profile)
            graph = GraphSession(name, spec, self._create(name, spec))
        if self.keep:
            self._kept[name] = graph
        try:
            yield graph
        finally:
            if not self.keep:
                # The caller may hold on to the GraphSession; what takes the memory must go now.
                del graph._session
                release_freed()

    def _create(self, name: str, spec: GraphSpec) -> Any:
        import onnxruntime

        engine = self.providers == (OPENVINO,)
        portable = spec.portable if engine or wants_portable(self.providers) else None
        file = portable or spec.file
        try:
            if engine:
                return self._create_openvino(spec)
            session = self._create_optimised(name, spec)
            if session is None:
                options = session_options(self.profile, self.threads, name in _EVERY_STEP)
                if self.math == "fast":
                    options.add_session_config_entry(*ARM_BF16)
                session = onnxruntime.InferenceSession(
                    utf8_path(self.bundle.path(file)), options, providers=list(self.providers)
                )
        except BundleError:
            raise
        except Exception as error:  # both engines raise their own kinds, without a common base
            raise BundleError(f"graph {name} ({file}) cannot be opened: {first_line(error)}") from error
        missing = set(self.providers) - set(session.get_providers())
        if missing:
            raise SettingsError(
                f"provider {short_name(sorted(missing)[0])} is installed but did not start; "
                "check its driver or leave the provider out"
            )
        return session

    def _create_optimised(self, name: str, spec: GraphSpec) -> Any:
        """A session on the kept, optimised graph of the memory profile; None where there can be none."""
        cpu = self.providers == ("CPUExecutionProvider",) and self.math == "exact"
        if self.profile != "memory" or not cpu:
            return None
        folder = graph_folder() if self.graphs is None else self.graphs
        kept = OptimisedGraph(self.bundle, spec, self.profile, folder, name in _EVERY_STEP)
        return kept.open(self.threads)

    def _create_openvino(self, spec: GraphSpec) -> Any:
        return open_openvino(
            self.bundle,
            spec,
            fast=self.math == "fast",
            threads=self.threads,
            folder=graph_folder() if self.graphs is None else self.graphs,
        )


def check_finite(graph: str, tensors: Mapping[str, Array]) -> None:
    """Raises: BundleError when an output of a graph holds NaN or infinite values."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise BundleError(
                f"the {graph} graph returns NaN or infinite values ({name}); "
                "`dreamcache verify` checks its weights"
            )


def check_threads(threads: int | None) -> int | None:
    """Raises: SettingsError for fewer than one thread, or so many that the system would refuse them."""
    return None if threads is None else whole_number("threads", threads, 1, MAX_THREADS)


def _check_signature(graph: str, declared: Sequence[TensorSpec], found: Sequence[Any], what: str) -> None:
    """Declared tensors must exist with their dtype and shape; a graph may have further outputs."""
    by_name = {node.name: node for node in found}
    extra = set(by_name) - {spec.name for spec in declared}
    if extra and what == "input":
        raise BundleError(f"graph {graph} asks for {sorted(extra)}, which the contract does not declare")
    for spec in declared:
        node = by_name.get(spec.name)
        if node is None:
            raise BundleError(f"graph {graph}: {what} {spec.name} is expected, received {sorted(by_name)}")
        received = list(node.shape)
        # A symbolic dimension takes any size, as several references need; a number must be the declared one.
        fits = len(received) == len(spec.shape) and all(
            not isinstance(have, int) or have == want for have, want in zip(received, spec.shape, strict=True)
        )
        if not fits or node.type != f"tensor({ONNX_TYPES[spec.dtype]})":
            raise BundleError(
                f"graph {graph}: {what} {spec.name} {list(spec.shape)} {spec.dtype} is expected, "
                f"received {received} {node.type}; export the bundle again"
            )


def _fit(spec: TensorSpec, value: Array) -> Array:
    assert spec.takes(value.shape), f"{spec.name}: {spec.shape} expected, {value.shape} given"
    return np.ascontiguousarray(value, dtype=spec.dtype)
