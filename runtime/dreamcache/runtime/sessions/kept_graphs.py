"""Optimised graphs kept between runs, so that the memory profile opens a graph without optimising it again.

ONNX Runtime's optimisations depend on its version, the processor and the settings. All of these, the graph and its
weights make a fingerprint, which names the file; so a change of any of them is another file. A file is one line
(format, fingerprint, SHA-256 of what follows) and the optimised ONNX graph, whose large weights stay where they
are: in the bundle's own weights file, which ONNX Runtime is told to look in. Nothing here has to succeed: a
folder that cannot be written costs time, not a picture.

A kept graph runs in the place of the bundle's. So it is used only when nobody else could have written it, its
hash is the recorded one and every weight it refers to lies inside the weights files that the contract names.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamcache.runtime.bundle.contract import GraphSpec
from dreamcache.runtime.bundle.folder import Bundle, check_tensors
from dreamcache.runtime.bundle.graph_files.contents import tensors_in
from dreamcache.runtime.errors import DreamCacheError
from dreamcache.runtime.files import remove_stale, replacing
from dreamcache.runtime.sessions.overflow import guard_entries
from dreamcache.runtime.sessions.processor import processor_features, processor_fields
from dreamcache.runtime.sessions.profiles import Profile, session_options
from dreamcache.runtime.sessions.system import user_caches
from dreamcache.runtime.untrusted import utf8_path

FOLDER_VARIABLE = "DREAMCACHE_CACHE"
_FORMAT = "dreamcache-graph-1"
# An optimised graph that has weights folded into it would be a second, private copy of the model.
_MAX_BYTES = 64 << 20
_SCRATCH = ".dreamcache-optimising-"
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


def graph_folder() -> Path:
    """Where optimised graphs are kept: $DREAMCACHE_CACHE, else below the user's cache folder."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return user_caches() / "dreamcache"


@dataclass(frozen=True)
class OptimisedGraph:
    """The kept form of one graph of a bundle; repeated: it runs at every step."""

    bundle: Bundle
    spec: GraphSpec
    profile: Profile
    folder: Path
    repeated: bool = False

    @property
    def place(self) -> Path:
        """The file, whose name is the fingerprint."""
        return self.folder / f"{self.fingerprint()}.graph"

    def fingerprint(self) -> str:
        """SHA-256 over the graph and its weights, ONNX Runtime's version, the processor and the profile."""
        import onnxruntime

        files = self.bundle.contract.files
        facts = {
            "files": {path: files[path].sha256 for path in (self.spec.file, *self.spec.weights)},
            "onnxruntime": onnxruntime.__version__,
            "processor": processor_facts(),
            "profile": self.profile,
            "guard": guard_entries(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def open(self, threads: int | None) -> Any:
        """A session on the kept graph; it is made first where there is none that can be trusted.

        None where the graph cannot be kept: the caller opens the bundle's.
        """
        if self.bundle.contract.files[self.spec.file].size > _MAX_BYTES:
            return None
        with suppress(OSError, DreamCacheError, *_runtime_errors()):
            graph = self.read()
            if graph is None:
                self.make(threads)
                graph = self.read()
            if graph is not None:
                return self._open(graph, threads)
        return None

    def read(self) -> bytes | None:
        """The kept ONNX graph; None where there is none or it is not to be trusted."""
        with suppress(OSError, DreamCacheError), self.place.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if not is_private(status) or status.st_size > _MAX_BYTES:
                return None
            header, graph = stream.readline(256), stream.read()
            if header == self._header(graph):
                check_tensors(
                    tensors_in(memoryview(graph), self.place.name, optimized=True), self.bundle, self.spec
                )
                return graph
        return None

    def make(self, threads: int | None) -> None:
        """Optimise the bundle's graph and keep it. Raises: OSError, BundleError, ONNX Runtime's errors."""
        import onnxruntime

        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_stale(self.folder, f"{_SCRATCH}*")
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=self.folder) as scratch:
            written = Path(scratch) / "model.onnx"
            options = session_options(self.profile, threads, self.repeated)
            options.optimized_model_filepath = utf8_path(written)
            onnxruntime.InferenceSession(
                utf8_path(self.bundle.path(self.spec.file)), options, providers=["CPUExecutionProvider"]
            )
            if not written.is_file() or written.stat().st_size > _MAX_BYTES - 256:
                return
            graph = written.read_bytes()
        check_tensors(tensors_in(memoryview(graph), self.spec.file, optimized=True), self.bundle, self.spec)
        with (
            replacing(self.place, overwrite=True) as temporary,
            open(temporary, "xb", opener=_private) as stream,
        ):
            stream.write(self._header(graph))
            stream.write(graph)

    def _open(self, graph: bytes, threads: int | None) -> Any:
        import onnxruntime

        options = session_options(self.profile, threads, self.repeated)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry(_WEIGHTS_FOLDER, utf8_path(self.bundle.path(self.spec.file).parent))
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def _header(self, graph: bytes) -> bytes:
        return f"{_FORMAT} {self.fingerprint()} {hashlib.sha256(graph).hexdigest()}\n".encode()


def is_private(status: os.stat_result) -> bool:
    """Whether this user alone could have written the file; where there are no owners, everybody may."""
    if not hasattr(os, "getuid"):
        return True
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def processor_facts() -> list[str]:
    """System, machine and what the processor can do."""
    return [platform.system(), platform.machine(), *_processor_features()]


def _processor_features() -> list[str]:
    """What the processor can do, as the system lists it; its name where the system has no list."""
    found = processor_features(processor_fields())
    return sorted(found) if found else [platform.processor(), sys.byteorder]


def _runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's errors, which have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = (getattr(state, name) for name in dir(state))
    return tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception))
