"""optimum's ORTStableDiffusionPipeline on its own export of the plain model, timed as a pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import onnxruntime
from optimum.onnxruntime import ORTStableDiffusionPipeline

from peers.job import PROMPTS, Stages, answer, read_job, size_of


def main() -> None:
    """One job. Text and decoding are within the pipeline: `rest` is what a picture takes besides its steps."""
    job = read_job()
    stages = Stages()
    folder = Path(job.prepared) / "optimum"
    options = onnxruntime.SessionOptions()
    if job.threads is not None:
        options.intra_op_num_threads = job.threads
    pipe = stages.time(
        "load", lambda: ORTStableDiffusionPipeline.from_pretrained(folder, session_options=options)
    )
    pipe.set_progress_bar_config(disable=True)
    ends: list[float] = []

    def note_end(_: Any, step: int, timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        del step, timestep
        ends.append(time.perf_counter())
        return kept

    prompt, null = PROMPTS
    begin = time.perf_counter()
    pipe(
        prompt,
        negative_prompt=null,
        num_inference_steps=job.repeats + 1,
        guidance_scale=7.5,
        callback_on_step_end=note_end,
    )
    stages.split(ends, time.perf_counter() - begin)
    answer(
        job,
        stages,
        size_of(folder),
        ("onnxruntime", "optimum", "optimum-onnx", "diffusers"),
        ["steps are of two branches in one batch"],
    )


if __name__ == "__main__":
    main()
