"""diffusers with IP-Adapter, image encoder included: what the pipeline does when it is given `ip_adapter_image`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from peers.job import Stages, answer, read_job
from peers.prepare import ADAPTER_FILE
from peers.pytorch import LIBRARIES, load_pipeline, parameter_bytes, text_and_decode, unet_inputs


def main() -> None:
    """One job."""
    job = read_job()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    stages = Stages()
    with torch.inference_mode():
        pipe = stages.time("load", lambda: load_pipeline(job))
        folder = Path(job.prepared) / "ip_adapter"
        stages.time(
            "load",
            lambda: pipe.load_ip_adapter(
                str(folder), subfolder="", weight_name=ADAPTER_FILE, image_encoder_folder="image_encoder"
            ),
        )
        with Image.open(job.reference) as picture:
            reference = picture.convert("RGB")
        for stage in ("first_subject", "subject"):
            embedding, _ = stages.time(stage, lambda: pipe.encode_image(reference, "cpu", 1))
        inputs = unet_inputs(pipe)
        added = {"image_embeds": [embedding[:, None]]}
        stages.repeat("call", lambda: pipe.unet(*inputs, added_cond_kwargs=added).sample, job.repeats)
        text_and_decode(pipe, inputs[0], stages)
    modules = [pipe.unet, pipe.vae, pipe.text_encoder, pipe.image_encoder]
    answer(job, stages, parameter_bytes(modules), LIBRARIES)


if __name__ == "__main__":
    main()
