"""The measured process: one bundle, told over stdin what to run, answering over stdout in JSON lines.

    python -m dreamcache.benchmarks.process.worker

It holds nothing but the runner, as an application would; clocks run here, memory is read from outside. Requests are
objects with "do", the name of a public method of `Worker`, and its arguments; the process ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamcache.runtime.pipeline import Pipeline
    from dreamcache.runtime.sessions.providers import Math
    from dreamcache.runtime.sessions.session import GraphSession
    from dreamcache.runtime.subject import Subject

SEED = 0


class Worker:
    """One pipeline and what is timed of it. Every figure returned is a list of milliseconds unless it says so."""

    def __init__(self) -> None:
        self._pipe: Pipeline
        self._subject: Subject
        self._stages: list[tuple[str, float, float]] = []
        self._open: dict[str, GraphSession] = {}
        self._stack = ExitStack()

    def import_libraries(self) -> list[float]:
        """Import the runner and ONNX Runtime, which loading is not to be charged with."""
        begin = time.perf_counter()
        import onnxruntime  # noqa: F401

        import dreamcache.runtime.pipeline  # noqa: F401

        return [_ms_since(begin)]

    def load(
        self,
        bundle: str,
        profile: str,
        providers: Sequence[str],
        threads: int | None,
        math: Math,
        graph: str | None,
        graphs: str | None,
    ) -> list[float]:
        """Open the bundle, whose hashes were checked before, and the session of `graph`.

        graphs: where optimised graphs are kept.
        """
        from dreamcache.runtime import Pipeline
        from dreamcache.runtime.sessions.kept_graphs import FOLDER_VARIABLE
        from dreamcache.runtime.sessions.profiles import check_profile

        if graphs is not None:
            os.environ[FOLDER_VARIABLE] = graphs
        begin = time.perf_counter()
        self._pipe = Pipeline.load(
            bundle,
            profile=check_profile(profile),
            providers=providers,
            threads=threads,
            check_hashes=False,
            observe=self._observe,
        )
        # The command has judged it, so that what is measured is what is asked for alone.
        self._pipe.sessions = replace(self._pipe.sessions, math=math)
        if graph is not None:
            self._graph(graph)
        return [_ms_since(begin)]

    def use_subject(self, path: str) -> None:
        """Read the subject file that steps and pictures are conditioned on."""
        self._subject = self._pipe.load_subject(path)

    def call(self, graph: str, count: int) -> list[float]:
        """Single calls of a UNet graph: standard normal latent and text, the schedule's middle, strength 1."""
        session, inputs = self._graph(graph), self._unet_inputs(graph)
        taken = []
        for _ in range(count):
            begin = time.perf_counter()
            session.run(inputs, ("prediction",))
            taken.append(_ms_since(begin))
        return taken

    def text(self, prompt: str) -> list[float]:
        """One prompt through the text encoder, without opening its session."""
        self._stages.clear()
        self._pipe.embed({"prompt": prompt})
        return self._taken("text")

    def cache(self, reference: str, out: str | None = None) -> dict[str, list[float]]:
        """One reference through VAE encoder and caching graph, for what follows; out: where to keep the subject."""
        self._stages.clear()
        self._subject = self._pipe.cache(reference)
        if out is not None:
            self._subject.save(out, overwrite=True)
        return {"vae_encode": self._taken("vae_encode"), "cache": self._taken("cache")}

    def vae_decode(self, kept: bool = False) -> list[float]:
        """One standard normal latent to a picture, without opening its session.

        kept: in a session that stays open, as `Pipeline.load(keep_sessions=True)` has it; its first run is longer,
        since the system hands out the memory then.
        """
        if kept:
            name = self._pipe.contract.graphs.vae_decoder.inputs[0].name
            session, latent = self._graph("vae_decoder"), self._latent()
            begin = time.perf_counter()
            session.run({name: latent})
            return [_ms_since(begin)]
        self._stages.clear()
        self._pipe.decode(self._latent())
        return self._taken("vae_decode")

    def picture(
        self, prompt: str, steps: int, images: int = 1, seed: int = SEED, **options: Any
    ) -> list[float]:
        """`images` pictures of the subject from the prompt in one go, opening what the profile opens.

        options: of `Pipeline.generate`.
        """
        self._stages.clear()
        begin = time.perf_counter()
        self._pipe.generate(prompt, self._subject, num_images=images, steps=steps, seed=seed, **options)
        return [_ms_since(begin)]

    def stages(self) -> list[tuple[str, float, float]]:
        """(stage, begin, end) of what ran last, in seconds of time.monotonic()."""
        return list(self._stages)

    def _observe(self, stage: str, seconds: float) -> None:
        end = time.monotonic()
        self._stages.append((stage, end - seconds, end))

    def _taken(self, stage: str) -> list[float]:
        return [(end - begin) * 1e3 for name, begin, end in self._stages if name == stage]

    def _graph(self, name: str) -> GraphSession:
        if name not in self._open:
            self._open[name] = self._stack.enter_context(self._pipe.sessions.open(name))
        return self._open[name]

    def _latent(self) -> Any:
        import numpy as np

        shape = self._pipe.contract.architecture.latent_shape
        return np.random.default_rng(SEED).standard_normal(shape, dtype=np.float32)

    def _unet_inputs(self, graph: str) -> dict[str, Any]:
        import numpy as np

        random = np.random.default_rng(SEED)
        middle = self._pipe.contract.scheduler.num_train_timesteps // 2
        known = {"timestep": np.float32(middle), "reference_strength": np.float32(1)}
        inputs: dict[str, Any] = {}
        for spec in self._pipe.contract.graphs.by_name()[graph].inputs:
            if spec.name in self._subject.tensors:
                inputs[spec.name] = self._subject.tensors[spec.name]
            elif spec.name in known:
                inputs[spec.name] = np.full(spec.shape, known[spec.name])
            else:
                inputs[spec.name] = random.standard_normal(spec.shape, dtype=np.float32)
        return inputs


def main() -> None:
    """Answer requests until the input ends; a failed request is answered with its error and ends the process."""
    from dreamcache.runtime.errors import DreamCacheError

    measured = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(measured, request.pop("do"))(**request)}
        except DreamCacheError as error:
            answer = {"error": str(error)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if "error" in answer:
            sys.exit(1)


def _ms_since(begin: float) -> float:
    return (time.perf_counter() - begin) * 1e3


if __name__ == "__main__":
    main()
