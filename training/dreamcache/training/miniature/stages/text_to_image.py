"""Stage 2: the miniature's text encoder and UNet, trained together from scratch on cached latents.

The UNet has SD 1.5's block types at three resolutions; it predicts velocity (Salimans and Ho 2022), which at
this size learns shapes from fewer samples than noise prediction does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamcache.models.bases.pixels import to_pictures
from dreamcache.models.pipeline import denoise_batch
from dreamcache.training.device import compile_unet, training_device, training_dtype
from dreamcache.training.miniature.convolution import quicken
from dreamcache.training.miniature.latents import Latents
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.miniature.plots import save_sheet
from dreamcache.training.miniature.stages.autoencoder import LATENT_CHANNELS
from dreamcache.training.miniature.tokenizer import TEXT_LENGTH
from dreamcache.training.world.identity import KINDS
from dreamcache.training.world.samples import SCENE_NAMES
from dreamcache.training.world.scenes import SCENES

TEXT_WIDTH = 192
CAPTION_DROP = 0.1


def make_unet() -> UNet2DConditionModel:
    """The architecture, with random weights: middle and decoder sites at 4 × 4, 8 × 8 and 16 × 16 tokens.

    Residual branches and the last convolution start at zero (Dhariwal and Nichol 2021).
    """
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 192, 256),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=(3, 6, 8),  # diffusers' name for the number of heads
        norm_num_groups=32,
    )
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
        if isinstance(module, Transformer2DModel):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(cast(Tensor, unet.conv_out.bias))
    return unet


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text encoder of three layers, with random weights."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=6,
            max_position_embeddings=TEXT_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_noise_schedule() -> DDIMScheduler:
    """SD's noise schedule with velocity prediction."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
    )


def noised(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """Latents [b, z, h, w] at their timesteps [b], and the velocity that the UNet should predict."""
    alphas = scheduler.alphas_cumprod.to(clean.device)[timestep][:, None, None, None]
    signal, scale = alphas.sqrt(), (1 - alphas).sqrt()
    return signal * clean + scale * noise, signal * noise - scale * clean


def draw_step(
    latents: Latents, schedule: Schedule, step: int, drop: float, null: Tensor
) -> tuple[Tensor, ...]:
    """What a step trains on: clean latents and noise [b, z, h, w], timesteps [b] uniform in 0..999, tokens with some
    dropped. Latents and noise lie, and the noise is drawn, where the latents are.
    """
    generator = step_generator(schedule.seed, step)
    chosen = torch.randint(len(latents.targets), (schedule.batch,), generator=generator)
    # stratified over the batch: uniform, with less variance
    timestep = (
        (
            (torch.arange(schedule.batch) + torch.rand(schedule.batch, generator=generator))
            / schedule.batch
            * 1000
        )
        .long()
        .clamp(max=999)
    )  # a sum just below the batch may round up to it
    device = latents.targets.device
    clean = latents.targets[chosen.to(device)].float()
    if device.type == "cpu":
        noise = torch.randn(clean.shape, generator=generator)
    else:
        noise = torch.randn(clean.shape, device=device, generator=step_generator(schedule.seed, step, device))
    dropped = torch.rand(schedule.batch, generator=generator) < drop
    tokens = torch.where(dropped[:, None], null, latents.tokens[chosen])
    return clean, noise, timestep, tokens


def null_tokens(tokenizer: CLIPTokenizer) -> Tensor:
    """The empty prompt, [1, length]."""
    ids: Tensor = tokenizer([""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def train_text_to_image(
    latents: Latents, vae: AutoencoderKL, tokenizer: CLIPTokenizer, directory: Path, schedule: Schedule
) -> StableDiffusionPipeline:
    """Train and return the whole base as a diffusers pipeline; continues where `directory` stands."""
    device = training_device()
    torch.manual_seed(schedule.seed)
    unet, text_encoder = make_unet(), make_text_encoder(tokenizer)
    scheduler, null = make_noise_schedule(), null_tokens(tokenizer)
    model = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}).to(device)
    run = Run(directory, dict(model.named_parameters()), schedule)
    dtype = training_dtype(device)
    model.to(dtype)
    # plain products: the fused CPU kernel is slow backwards at 64 tokens
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    if device.type == "cpu":
        quicken(unet)
    if schedule.compiled:
        compile_unet(unet)
    latents = replace(latents, targets=latents.targets.to(device))

    def loss(step: int) -> Iterator[Tensor]:
        drawn = draw_step(latents, schedule, step, CAPTION_DROP, null)
        for part in zip(*(t.chunk(schedule.parts) for t in drawn), strict=True):
            clean, noise, timestep, tokens = (t.to(device) for t in part)
            noisy, velocity = noised(scheduler, clean, noise, timestep)
            text = text_encoder(tokens).last_hidden_state
            predicted = unet(noisy.to(dtype), timestep, text).sample
            yield functional.mse_loss(predicted.float(), velocity) * (len(clean) / schedule.batch)

    def sheet(path: Path) -> None:
        pipeline = assemble(vae, text_encoder, tokenizer, unet, scheduler)
        rows = []
        for row in range(4):
            prompts = [
                f"a toy {KINDS[(row * 6 + i) % 12]} {SCENES[SCENE_NAMES[(row * 5 + i) % 13]].words[0]}"
                for i in range(8)
            ]
            with torch.compiler.set_stance("force_eager"):  # compiled for another number of pictures
                rows.append(list(sample(pipeline, prompts, seed=row)))
        save_sheet(rows, path)

    run.train(loss, sheet, sheet_every=10 * schedule.checkpoint_every)
    return assemble(vae, text_encoder, tokenizer, unet, scheduler)


def assemble(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel,
    scheduler: DDIMScheduler,
) -> StableDiffusionPipeline:  # fmt: skip
    """The parts as the pipeline that diffusers knows."""
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def sample(
    pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, steps: int = 20, guidance: float = 3.0
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, h, w, 3] of a stock pipeline whatever the precision of its parts."""
    weight = next(pipeline.unet.parameters())
    generator = torch.Generator().manual_seed(seed)
    tokens = pipeline.tokenizer(
        [*prompts, *[""] * len(prompts)], padding="max_length", truncation=True, return_tensors="pt"
    )
    text = pipeline.text_encoder(tokens.input_ids.to(weight.device)).last_hidden_state
    size = pipeline.unet.config.sample_size
    latent = torch.randn(len(prompts), pipeline.unet.config.in_channels, size, size, generator=generator).to(
        weight.device
    )
    *_, last = denoise_batch(
        lambda rows, timestep, text: pipeline.unet(rows, timestep, text).sample,
        pipeline.scheduler,
        latent,
        *text.chunk(2),
        steps=steps,
        guidance_mode="classic",
        guidance_scale=guidance,
    )
    decoder = next(pipeline.vae.parameters())
    scaled = last.latent / pipeline.vae.config.scaling_factor
    return to_pictures(pipeline.vae.decode(scaled.to(decoder.device, decoder.dtype)).sample)
