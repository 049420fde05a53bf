"""Stage 3: the conditioning adapters, with the base frozen (paper, section 3.3 and the supplement).

A sample is a prompt, a target and a reference of the same toy in another pose on white. The reference is
cached by the frozen UNet at the caching timestep with the null text; the adapters alone learn, from the
base's own loss. Of two toys both references are cached, and their tokens joined.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamcache.models.bases.base import Base
from dreamcache.models.caching import cache_clean, join_caches
from dreamcache.models.checkpoint import save_adapters
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig
from dreamcache.models.pipeline import DreamCachePipeline
from dreamcache.training.device import training_device, training_dtype
from dreamcache.training.evaluation.toys.benchmark import draw_cases
from dreamcache.training.evaluation.toys.painter import SamplingSettings, cache_batch, paint_batch
from dreamcache.training.miniature.latents import Latents
from dreamcache.training.miniature.loop import Run, Schedule, step_generator
from dreamcache.training.miniature.plots import save_sheet
from dreamcache.training.miniature.stages.text_to_image import draw_step, noised, null_tokens

CAPTION_DROP = 0.07
PAIRS_EVERY = 4
"""Steps from one with two toys to the next."""
# the reference's own noise comes from another stream than the target's
REFERENCE_STREAM = 5_000_011


def train_adapters(
    latents: Latents,
    base: Base,
    directory: Path,
    schedule: Schedule,
    config: AdapterConfig | None = None,
    pairs: Latents | None = None,
) -> ConditionedUNet:
    """Train and return the UNet with its adapters, averaged weights; continues where `directory` stands."""
    device = training_device()
    torch.manual_seed(schedule.seed)
    base.unet.to(device)
    base.text_encoder.to(device)
    config = AdapterConfig() if config is None else config
    conditioned = ConditionedUNet(base.unet, config)
    run = Run(directory, dict(conditioned.adapters.named_parameters()), schedule)
    dtype = training_dtype(device)
    conditioned.to(dtype)
    base.unet.set_attn_processor(AttnProcessor())  # see text_to_image: the fused CPU kernel is slow backwards
    null = null_tokens(base.tokenizer)
    latents, pairs = latents.prompted(), None if pairs is None else pairs.prompted()
    cache_text = base.encode_text([config.cache_prompt]).to(dtype)

    def loss(step: int) -> Tensor:
        drawn = pairs if pairs is not None and step % PAIRS_EVERY == PAIRS_EVERY - 1 else latents
        chosen, noise, timestep, tokens = draw_step(drawn, schedule, step, CAPTION_DROP, null)
        clean = drawn.targets[chosen].to(device).float()
        noisy, velocity = noised(base.scheduler, clean, noise.to(device), timestep.to(device))
        references = drawn.references[chosen].to(device).float()
        views = references.unbind(1) if references.ndim == 5 else (references,)
        draws = step_generator(schedule.seed + REFERENCE_STREAM, step)
        with sdpa_kernel(SDPBackend.MATH):
            cache = join_caches(
                [
                    cache_clean(
                        base.unet,
                        conditioned.sites,
                        base.scheduler,
                        config,
                        view,
                        torch.randn(view.shape, generator=draws).to(device),
                        cache_text,
                    )
                    for view in views
                ]
            )
            with torch.no_grad():
                text = base.text_encoder(tokens.to(device)).last_hidden_state.to(dtype)
            predicted = conditioned(noisy.to(dtype), timestep.to(device), text, cache)
        return functional.mse_loss(predicted.float(), velocity)

    cases = draw_cases(8, 3, seed=1, size=8 * latents.targets.shape[-1])

    def sheet(path: Path) -> None:
        conditioned.float()
        references = np.stack([case.reference for case in cases])
        prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
        pipeline = DreamCachePipeline(base, conditioned)
        drawn = paint_batch(pipeline, prompts, cache_batch(pipeline, references), seeds, SamplingSettings())
        save_sheet([[references[3 * i], *drawn[3 * i : 3 * i + 3]] for i in range(len(cases) // 3)], path)
        conditioned.to(dtype)

    run.train(loss, sheet, sheet_every=4 * schedule.checkpoint_every)
    return conditioned.float()


def save_trained(path: Path, conditioned: ConditionedUNet, untouched: Base) -> None:
    """Write what `train_adapters` gave, as float16.

    The base may have been rounded to bfloat16: the adapters are saved for it as it is on disk, which is `untouched`.
    """
    fresh = ConditionedUNet(untouched.unet, conditioned.config)
    fresh.adapters.load_state_dict(conditioned.adapters.state_dict())
    save_adapters(path, fresh, dtype=torch.float16)
