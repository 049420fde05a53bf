"""Sessions on graphs that are not part of a bundle yet, to compare and to calibrate with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from dreamcache.export.errors import ExportError
from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.errors import first_line
from dreamcache.runtime.sessions.profiles import session_options
from dreamcache.runtime.sessions.session import GraphSession


def open_session(name: str, path: Path, *, pack: bool = False) -> Any:
    """ONNX Runtime's session on the CPU.

    Args:
        name: of the graph, for the message.
        path: its file.
        pack: copy the weights into the layouts that kernels like best, by prepacking and by the optimiser's last
            level; in vain where a session runs a few times, and a second copy of all weights.

    Raises:
        ExportError: ONNX Runtime refuses the graph.
    """
    options = session_options("speed", repeated=True)
    if not pack:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
        raise ExportError(f"graph {name} does not load in ONNX Runtime: {first_line(error)}") from error


def open_exported(name: str, path: Path, spec: GraphSpec, *, pack: bool = False) -> GraphSession:
    """As `open_session`, with the runner's checks of what goes in and out."""
    return GraphSession(name, spec, open_session(name, path, pack=pack))
