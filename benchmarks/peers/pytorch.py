"""PyTorch eager through diffusers: the plain model, and the second-UNet way.

Weights lie on the disk in fp32 and are converted while loading; `disk_bytes` is what they take at the precision run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

from peers.job import PROMPTS, Job, Stages, answer, read_job
from peers.unets import ConditionedUnet, ReferenceUnet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIBRARIES = ("torch", "diffusers", "transformers", "numpy")


def main() -> None:
    """One job: method plain or second_unet."""
    job = read_job()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    stages = Stages()
    second = None
    with torch.inference_mode():
        pipe = stages.time("load", lambda: load_pipeline(job))
        if job.method == "second_unet":
            second = stages.time("load", lambda: _load_unet(job))
        inputs = unet_inputs(pipe)
        if second is None:
            stages.repeat("call", lambda: pipe.unet(*inputs).sample, job.repeats)
        else:
            run_second_unet(pipe, second, inputs, job, stages)
        text_and_decode(pipe, inputs[0], stages)
    modules = [pipe.unet, pipe.vae, pipe.text_encoder, *([] if second is None else [second])]
    answer(job, stages, parameter_bytes(modules), LIBRARIES)


def run_second_unet(
    pipe: Any, second: UNet2DConditionModel, inputs: tuple[Tensor, Tensor, Tensor], job: Job, stages: Stages
) -> None:
    """The reference is encoded once; noising it anew at every step takes no time that could be seen."""
    size = int(pipe.unet.config.sample_size) * pipe.vae_scale_factor
    with Image.open(job.reference) as picture:
        pixels = np.asarray(picture.convert("RGB").resize((size, size)), np.float32) / 127.5 - 1
    sample = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(pipe.unet.dtype)
    latent = stages.time("subject", lambda: pipe.vae.encode(sample).latent_dist.mean)
    reference, conditioned = ReferenceUnet(second, "sdpa"), ConditionedUnet(pipe.unet, "sdpa")
    features = reference(latent, *inputs[1:])
    stages.repeat("reference_call", lambda: reference(latent, *inputs[1:]), job.repeats)
    stages.repeat("call", lambda: conditioned(*inputs, *features), job.repeats)


def load_pipeline(job: Job) -> Any:
    """diffusers' pipeline in the job's precision."""
    pipe = StableDiffusionPipeline.from_pretrained(
        job.base, torch_dtype=DTYPES[job.precision], safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unet_inputs(pipe: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Standard normal latent [1, z, h, w] and text [1, n, c], the schedule's middle [1]."""
    config, dtype = pipe.unet.config, pipe.unet.dtype
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, config.in_channels, config.sample_size, config.sample_size, generator=generator)
    length = pipe.text_encoder.config.max_position_embeddings
    text = torch.randn(1, length, config.cross_attention_dim, generator=generator)
    return latent.to(dtype), torch.tensor([500]), text.to(dtype)


def text_and_decode(pipe: Any, latent: Tensor, stages: Stages) -> None:
    """What every picture takes besides its steps."""
    prompt, null = PROMPTS
    for stage in ("first_text", "text"):
        stages.time(stage, lambda: pipe.encode_prompt(prompt, "cpu", 1, True, negative_prompt=null))
    stages.time("decode", lambda: pipe.vae.decode(latent).sample)


def parameter_bytes(modules: list[nn.Module]) -> int:
    """Bytes of modules that share nothing."""
    return sum(one.numel() * one.element_size() for module in modules for one in module.parameters())


def _load_unet(job: Job) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(
        job.base, subfolder="unet", torch_dtype=DTYPES[job.precision], local_files_only=True
    )


if __name__ == "__main__":
    main()
