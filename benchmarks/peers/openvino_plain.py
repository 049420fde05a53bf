"""OpenVINO on the plain model: optimum's ONNX files, with static shapes, in the precision that OpenVINO chooses."""

from __future__ import annotations

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from peers.job import Stages, answer, read_job, size_of

FOLDERS = ("text_encoder", "unet", "vae_decoder")


def main() -> None:
    """One job."""
    job = read_job()
    core = importlib.import_module("openvino").Core()
    if job.threads is not None:
        core.set_property("CPU", {"INFERENCE_NUM_THREADS": job.threads})
    stages = Stages()
    folder = Path(job.prepared) / "optimum"
    unet, text = _config(folder, "unet"), _config(folder, "text_encoder")
    length, side = text["max_position_embeddings"], unet["sample_size"]
    latent = (1, unet["in_channels"], side, side)
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "text_encoder": {"input_ids": (1, length)},
        "unet": {
            "sample": latent,
            "timestep": (1,),
            "encoder_hidden_states": (1, length, unet["cross_attention_dim"]),
        },
        "vae_decoder": {"latent_sample": latent},
    }
    compiled = {
        name: stages.time("load", partial(_compile, core, folder, name, shapes[name])) for name in FOLDERS
    }
    calls = {name: _random_call(compiled[name]) for name in FOLDERS}
    for stage in ("first_text", "text", "text"):
        stages.time(stage, calls["text_encoder"])
    # A picture embeds two prompts.
    stages.samples["text"] = [sum(stages.samples["text"])]
    stages.repeat("call", calls["unet"], job.repeats)
    stages.time("decode", calls["vae_decoder"])
    precision = compiled["unet"].get_property("INFERENCE_PRECISION_HINT").get_type_name()
    answer(
        job,
        stages,
        size_of(*(folder / name for name in FOLDERS)),
        ("openvino", "numpy"),
        [f"OpenVINO chose {precision} for itself; megabytes are of the fp32 files it reads"],
    )


def _compile(core: Any, folder: Path, name: str, shapes: dict[str, tuple[int, ...]]) -> Any:
    model = core.read_model(str(folder / name / "model.onnx"))
    # A timestep is one number or a list of one, as the exporter likes.
    ranks = {port.get_any_name(): port.get_partial_shape().rank.get_length() for port in model.inputs}
    model.reshape({name: list(shapes[name][:rank]) for name, rank in ranks.items()})
    return core.compile_model(model, "CPU")


def _random_call(compiled: Any) -> Any:
    """Runs the model on standard normal tensors, or on zeros where it takes whole numbers."""
    random = np.random.default_rng(0)
    feed = {}
    for port in compiled.inputs:
        shape, kind = tuple(port.get_shape()), port.get_element_type().to_dtype()
        feed[port.get_any_name()] = (
            random.standard_normal(shape).astype(kind)
            if np.issubdtype(kind, np.floating)
            else np.zeros(shape, kind)
        )
    request = compiled.create_infer_request()
    return lambda: request.infer(feed)


def _config(folder: Path, name: str) -> Any:
    return json.loads((folder / name / "config.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
