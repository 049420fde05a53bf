"""The graphs of saved packages with the contract's names, computed in PyTorch, for the runner's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamcache.export.coreml.convert import coreml_name
from dreamcache.export.coreml.mil.interpreter import Arithmetic, Interpreter
from dreamcache.export.coreml.mil.package import open_package
from dreamcache.export.coreml.mil.program import Function, read_function
from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.coreml import CoreMLFunction, CoreMLPart

Compute = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]
"""A function of a model: its inputs by name to its outputs by name."""

OpenFunction = Callable[[Path, str], Compute]
"""Given a package and the name of a function."""


class CoreMLGraph:
    """A graph in one or more pieces, each of which reads the inputs and what the ones before it gave.

    Args:
        pieces: what the contract declares of each, and what computes it.
    """

    def __init__(self, pieces: Sequence[tuple[CoreMLFunction, Compute]]) -> None:
        self._pieces = pieces

    def run(
        self, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None
    ) -> dict[str, NDArray[Any]]:
        """See `runtime.sessions.RunnableGraph`."""
        known = {coreml_name(name): np.asarray(value) for name, value in inputs.items()}
        for function, compute in self._pieces:
            known |= compute(
                {coreml_name(spec.name): known[coreml_name(spec.name)] for spec in function.inputs}
            )
        read = {spec.name for function, _ in self._pieces for spec in function.inputs}
        names = [
            spec.name for function, _ in self._pieces for spec in function.outputs if spec.name not in read
        ]
        return {name: known[coreml_name(name)] for name in names if wanted is None or name in wanted}


def open_coreml_graph(folder: Path, part: CoreMLPart, graph: str, open_piece: OpenFunction) -> CoreMLGraph:
    """A graph of a bundle, in whatever computes its pieces.

    Args:
        folder: of the bundle.
        part: its declaration.
        graph: a name in `part.graphs`.
        open_piece: opens them.
    """
    pieces = []
    for piece in part.graphs[graph]:
        model = part.models[piece.model]
        pieces.append((model.functions[piece.function], open_piece(folder / model.package, piece.function)))
    return CoreMLGraph(pieces)


class Interpreted:
    """Opens pieces in PyTorch.

    Args:
        arithmetic: see `Interpreter`.

    Attributes:
        largest: by package and function, what each interpreter saw.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self.largest: dict[tuple[Path, str], dict[str, float]] = {}

    def __call__(self, package: Path, function: str) -> Compute:
        interpreter = Interpreter(saved_function(package, function), self._arithmetic)
        # A graph that is opened twice is observed as one.
        interpreter.largest = self.largest.setdefault((package, function), interpreter.largest)
        return interpreter.run


def saved_function(package: Path, function: str) -> Function:
    """One function of a package.

    Raises:
        ExportError: a broken package, or one without that function.
    """
    opened = open_package(package)
    functions = opened.specification.mlProgram.functions
    if function not in functions:
        raise ExportError(f"{package}: function {function} is declared, {', '.join(functions)} are stored")
    return read_function(opened, function)
