"""The same engine for every method: ONNX Runtime or OpenVINO, opened as the runner opens it in its speed profile.

dreamcache, plain: the bundle's own graphs. ip_adapter, second_unet: the whole method, exported by `peers.prepare`.
ip_adapter_bound, second_unet_bound: what the method takes at least, where it was not exported in this precision: the
bundle's plain graph instead of the UNet, and of its copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamcache.runtime import Pipeline
from dreamcache.runtime.sessions.openvino import OpenVinoSession, engine_settings
from dreamcache.runtime.sessions.profiles import session_options
from peers.job import PROMPTS, Job, Stages, answer, read_job, size_of

LIBRARIES = {"ONNX Runtime": ("onnxruntime", "numpy"), "OpenVINO": ("openvino", "numpy")}
Inputs = dict[str, NDArray[Any]]

_PLAIN_NOTE = "a lower bound: the bundle's plain graph stands for the UNet with its four image tokens"
_TWICE_NOTE = (
    "a lower bound: the bundle's plain graph stands for either UNet, and no features pass between them"
)


def main() -> None:
    """One job."""
    job = read_job()
    assert job.bundle is not None
    stages = Stages()
    # Two pipelines on one bundle: what makes a subject closes its graphs, what draws keeps them.
    pipe = stages.time("load", lambda: _load(job, keep=True))
    once = stages.time("load", lambda: _load(job, keep=False))
    disk, notes = METHODS[job.method](job, pipe, once, stages)
    for graph in ("text_encoder", "vae_decoder"):
        stages.time("load", partial(_open, pipe, graph))
    for stage in ("first_text", "text"):
        stages.time(stage, lambda: pipe.embed({str(i): prompt for i, prompt in enumerate(PROMPTS)}))
    latent = random_input(pipe.contract.architecture.latent_shape)
    stages.time("decode", lambda: pipe.decode(latent))
    answer(job, stages, disk, LIBRARIES[job.engine], notes)


def dreamcache(job: Job, pipe: Pipeline, once: Pipeline, stages: Stages) -> tuple[int, list[str]]:
    """Reference to keys and values once, then the denoiser."""
    subject = stages.time("subject", lambda: once.cache(job.reference))
    inputs = _inputs(pipe, "denoiser") | dict(subject.tensors)
    _repeat_graph(pipe, "denoiser", inputs, "call", job, stages)
    return size_of(Path(str(job.bundle))), []


def plain(job: Job, pipe: Pipeline, once: Pipeline, stages: Stages) -> tuple[int, list[str]]:
    """The stock UNet."""
    del once
    _repeat_graph(pipe, "plain", _inputs(pipe, "plain"), "call", job, stages)
    return size_of(Path(str(job.bundle))), ["megabytes are the whole bundle's"]


def ip_adapter(job: Job, pipe: Pipeline, once: Pipeline, stages: Stages) -> tuple[int, list[str]]:
    """Image encoder, then the UNet with decoupled cross-attention."""
    del pipe, once
    folder = Path(job.prepared) / "onnx"
    image = _encode_image(folder / "image_encoder", job, stages)
    unet = stages.time("load", lambda: _session(folder / "ip_adapter", job))
    stages.repeat("call", _call(unet, {"image": image}), job.repeats)
    return size_of(folder / "image_encoder", folder / "ip_adapter") + _rest(job), []


def ip_adapter_bound(job: Job, pipe: Pipeline, once: Pipeline, stages: Stages) -> tuple[int, list[str]]:
    """Image encoder in fp32, then the plain graph."""
    encoder = Path(job.prepared) / "onnx" / "image_encoder"
    _encode_image(encoder, job, stages)
    disk, _ = plain(job, pipe, once, stages)
    return disk + size_of(encoder), [
        _PLAIN_NOTE,
        *(["the image encoder is in fp32"] if job.precision == "int8" else []),
    ]


def second_unet(job: Job, pipe: Pipeline, once: Pipeline, stages: Stages) -> tuple[int, list[str]]:
    """The copy over the reference, then the first UNet with the copy's tokens."""
    folder = Path(job.prepared) / "onnx"
    del pipe
    _encode_reference(job, once, stages)
    copy = stages.time("load", lambda: _session(folder / "reference_unet", job))
    unet = stages.time("load", lambda: _session(folder / "conditioned_unet", job))
    run_copy = _call(copy)
    stages.repeat("reference_call", run_copy, job.repeats)
    names = [output.name for output in copy.get_outputs()]
    features = {name: value.copy() for name, value in zip(names, run_copy(), strict=True)}
    stages.repeat("call", _call(unet, features), job.repeats)
    return size_of(folder / "reference_unet", folder / "conditioned_unet") + _rest(job), []


def second_unet_bound(job: Job, pipe: Pipeline, once: Pipeline, stages: Stages) -> tuple[int, list[str]]:
    """Two plain UNets, each in a session of its own."""
    _encode_reference(job, once, stages)
    inputs = _inputs(pipe, "plain")
    with once.sessions.open("plain") as copy:
        stages.repeat("reference_call", lambda: copy.run(inputs), job.repeats)
        disk, _ = plain(job, pipe, once, stages)
    return disk + size_of(Path(str(job.bundle)) / "unet"), [_TWICE_NOTE]


METHODS: dict[str, Callable[[Job, Pipeline, Pipeline, Stages], tuple[int, list[str]]]] = {
    "dreamcache": dreamcache,
    "plain": plain,
    "ip_adapter": ip_adapter,
    "ip_adapter_bound": ip_adapter_bound,
    "second_unet": second_unet,
    "second_unet_bound": second_unet_bound,
}


def random_input(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _load(job: Job, keep: bool) -> Pipeline:
    engine = ["openvino"] if job.engine == "OpenVINO" else None
    pipe = Pipeline.load(
        str(job.bundle), providers=engine, threads=job.threads, keep_sessions=keep, check_hashes=False
    )
    if job.precision == "bf16":
        # Random weights are timed alone: the golden tensors that judge fast math would be in the loading time.
        pipe.sessions = replace(pipe.sessions, math="fast")
    return pipe


def _inputs(pipe: Pipeline, graph: str) -> Inputs:
    """Inputs of a UNet graph without the reference's keys and values; in the schedule's middle, at strength 1."""
    known = {"timestep": 500.0, "reference_strength": 1.0}
    free = {"latent", "text", *known}
    return {
        spec.name: np.full(spec.shape, known[spec.name], np.float32)
        if spec.name in known
        else random_input(spec.shape)
        for spec in pipe.contract.graphs.by_name()[graph].inputs
        if spec.name in free
    }


def _open(pipe: Pipeline, graph: str) -> None:
    """A pipeline that keeps its sessions keeps this one."""
    with pipe.sessions.open(graph):
        pass


def _repeat_graph(pipe: Pipeline, graph: str, inputs: Inputs, stage: str, job: Job, stages: Stages) -> None:
    with ExitStack() as stack:
        session = stages.time("load", lambda: stack.enter_context(pipe.sessions.open(graph)))
        stages.repeat(stage, lambda: session.run(inputs, ("prediction",)), job.repeats)


def _encode_reference(job: Job, once: Pipeline, stages: Stages) -> None:
    """To a latent, once a subject; noising it at every step takes no time that could be seen."""
    side = once.contract.architecture.reference_side
    with Image.open(job.reference) as picture:
        resized = picture.convert("RGB").resize((side, side))
    stages.time("subject", lambda: once.encode(resized))


def _encode_image(folder: Path, job: Job, stages: Stages) -> NDArray[Any]:
    """Image tokens [1, 4, c]. Resizing the picture is left out, which favours the method."""
    encoder = stages.time("load", lambda: _session(folder, job))
    pixels = random_input(tuple(encoder.get_inputs()[0].shape))
    for stage in ("first_subject", "subject"):
        tokens: NDArray[Any] = stages.time(stage, lambda: encoder.run(["image"], {"pixels": pixels})[0])
    return tokens


def _session(folder: Path, job: Job) -> Any:
    if job.engine == "OpenVINO":
        import openvino

        settings = engine_settings(job.precision == "bf16")
        if job.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = job.threads
        compiled = openvino.Core().compile_model(str(folder / "model.onnx"), "CPU", settings)
        return OpenVinoSession(compiled)
    import onnxruntime

    options = session_options("speed", job.threads, repeated=True)
    return onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )


def _call(session: Any, given: Mapping[str, NDArray[Any]] | None = None) -> Callable[[], Any]:
    """Runs a session on what is given; the rest is standard normal, the timestep in the schedule's middle."""
    feed = dict(given or {})
    wanted = [output.name for output in session.get_outputs()]
    for node in session.get_inputs():
        if node.name == "timestep":
            feed[node.name] = np.full(node.shape, 500.0, np.float32)
        elif node.name not in feed:
            feed[node.name] = random_input(tuple(node.shape))
    return lambda: session.run(wanted, feed)


def _rest(job: Job) -> int:
    """Text encoder, VAE and tokenizer, as DreamCache's bundle holds them."""
    bundle = Path(str(job.bundle))
    return size_of(bundle) - size_of(bundle / "unet")


if __name__ == "__main__":
    main()
