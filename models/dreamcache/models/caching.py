"""Caching a reference: one pass of the stock UNet, kept at the tapped sites (paper, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from dreamcache.models.conditioned import Cache
from dreamcache.models.config import AdapterConfig
from dreamcache.models.errors import AdapterError
from dreamcache.models.walk.sites import Site
from dreamcache.models.walk.transformer import as_tokens
from dreamcache.models.walk.unet import stock, visits


def noise_reference(scheduler: Any, latent: Tensor, noise: Tensor, timestep: int = 1) -> Tensor:
    """The reference at a training timestep: sqrt(a) · latent + sqrt(1 - a) · noise, with a = ᾱ(timestep).

    Args:
        scheduler: a diffusers scheduler with ``alphas_cumprod`` (every DDPM-like one has it).
        latent: [b, z, h, w] scaled latent of the reference on white.
        noise: [b, z, h, w] standard normal.
        timestep: index into ``alphas_cumprod``; 1 is the paper's.

    Raises:
        AdapterError: the scheduler has no such timestep.
    """
    alphas = scheduler.alphas_cumprod
    if not 0 <= timestep < len(alphas):
        raise AdapterError(
            f"caching timestep {timestep} is outside the scheduler's 0 to {len(alphas) - 1}; train within them"
        )
    alpha = alphas[timestep].to(device=latent.device, dtype=torch.float64)
    signal, scale = float(alpha.sqrt()), float((1.0 - alpha).sqrt())
    return signal * latent + scale * noise


def cache_clean(
    unet: UNet2DConditionModel,
    sites: Sequence[Site],
    scheduler: Any,
    config: AdapterConfig,
    latent: Tensor,
    noise: Tensor,
    text: Tensor,
    added: Mapping[str, Tensor] | None = None,
) -> Cache:
    """Cache clean references as `config` says: noised, at each of its timesteps.

    Args:
        unet, sites, scheduler: of the base.
        latent: [b, z, h, w] scaled latents of references on white.
        noise: [b, z, h, w] standard normal, the same at every timestep.
        text: [1 or b, n, c] embedding of ``config.cache_prompt``.
        added: SDXL's added conditions, see `dreamcache.models.walk.unet.walk`.

    Raises:
        AdapterError: the scheduler has no such timestep.
    """
    return join_caches(
        [
            cache_reference(
                unet,
                sites,
                noise_reference(scheduler, latent, noise, timestep).to(unet.dtype),
                timestep,
                text.to(unet.dtype),
                added,
            )
            for timestep in config.timesteps
        ]
    )


def join_caches(caches: Sequence[Cache]) -> Cache:
    """One cache of several references, or of several noise levels: their tokens, one after the other.

    Attention ignores order and repetition.

    Raises:
        ValueError: no cache.
    """
    if not caches:
        raise ValueError("caches: 1 or more are expected, received none; there is no cache to join")
    first, *others = caches
    if not others:
        return first
    batch = max(tokens.shape[0] for cache in caches for tokens in cache.values())
    return {name: torch.cat([cache[name].expand(batch, -1, -1) for cache in caches], dim=1) for name in first}


@torch.no_grad()
def cache_reference(
    unet: UNet2DConditionModel,
    sites: Sequence[Site],
    latent: Tensor,
    timestep: Tensor | int,
    text: Tensor,
    added: Mapping[str, Tensor] | None = None,
) -> Cache:
    """The hidden states that enter the tapped sites, as tokens; nothing after the last site is computed.

    Args:
        unet: the base; runs its stock path.
        sites: what `dreamcache.models.walk.sites.find_sites` gave.
        latent: [b, z, h, w] references, already noised (`noise_reference`).
        timestep: the timestep of that noise.
        text: [1 or b, n, c]; the null text, unless an ablation says otherwise.
        added: SDXL's added conditions, see `dreamcache.models.walk.unet.walk`.

    Returns:
        Site name to tokens [b, m, d], m = height x width of the site.
    """
    wanted = {site.name for site in sites}
    text = text.expand(latent.shape[0], -1, -1)
    cache: Cache = {}
    steps = visits(unet, latent, timestep, text, added)
    asked = next(steps)
    while True:
        if asked.name in wanted:
            cache[asked.name] = as_tokens(asked.hidden)
        if len(cache) == len(wanted):
            steps.close()
            return cache
        asked = steps.send(stock(asked.name, asked.transformer, asked.hidden, asked.text))
