"""Several references, several noise levels, and cached tokens that are not read."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_models import MINI_SHAPED, TEXT_WIDTH, randomise_adapters, tiny_unet
from torch import Tensor

from dreamcache.export.errors import ExportError
from dreamcache.export.modules.unet import check_exportable
from dreamcache.models.caching import cache_clean, cache_reference, join_caches, noise_reference
from dreamcache.models.conditioned import Cache, ConditionedUNet
from dreamcache.models.config import AdapterConfig, Fusion
from dreamcache.models.errors import AdapterError

LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(2, 7, TEXT_WIDTH, generator=torch.Generator().manual_seed(2))
TIMESTEP = torch.tensor([601, 44])


def model(fusion: Fusion = "spatial_concat") -> ConditionedUNet:
    return randomise_adapters(ConditionedUNet(tiny_unet(**MINI_SHAPED), AdapterConfig(fusion)))


def cached(conditioned: ConditionedUNet, seed: int, timestep: int = 1) -> Cache:
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    return cache_reference(conditioned.unet, conditioned.sites, latent, timestep, TEXT[:1])


@torch.no_grad()
def predicted(conditioned: ConditionedUNet, cache: Cache, visible: dict[str, Tensor] | None = None) -> Tensor:
    return conditioned(LATENT, TIMESTEP, TEXT, cache, visible=visible)


def only(cache: Cache, first: int, of: int) -> dict[str, Tensor]:
    """Part `first` of as many equal parts of the tokens."""
    return {
        name: (torch.arange(tokens.shape[1]) * of // tokens.shape[1] == first)[None, None]
        for name, tokens in cache.items()
    }


def test_joined_caches_are_read_together() -> None:
    conditioned = model()
    one, two = cached(conditioned, 5), cached(conditioned, 6)
    both = join_caches([one, two])
    assert all(both[name].shape[1] == 2 * tokens.shape[1] for name, tokens in one.items())
    torch.testing.assert_close(
        predicted(conditioned, both), predicted(conditioned, join_caches([two, one])), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(
        predicted(conditioned, join_caches([one, one])), predicted(conditioned, one), atol=1e-5, rtol=1e-5
    )
    assert (predicted(conditioned, both) - predicted(conditioned, one)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="no cache to join"):
        join_caches([])


@pytest.mark.parametrize("fusion", ["spatial_concat", "spatial_sum", "textual_sum", "decoupled"])
def test_what_is_not_visible_is_not_read(fusion: Fusion) -> None:
    conditioned = model(fusion)
    one, two = cached(conditioned, 5), cached(conditioned, 6)
    both = join_caches([one, two])
    torch.testing.assert_close(
        predicted(conditioned, both, only(both, 0, 2)), predicted(conditioned, one), atol=1e-5, rtol=1e-5
    )
    assert (predicted(conditioned, both, only(both, 1, 2)) - predicted(conditioned, one)).abs().max() > 1e-3


def test_each_sample_and_each_token_may_see_something_else() -> None:
    conditioned = model()
    one, two = cached(conditioned, 5), cached(conditioned, 6)
    both = join_caches([one, two])
    first, second = only(both, 0, 2), only(both, 1, 2)
    mixed = predicted(conditioned, both, {name: torch.cat([first[name], second[name]]) for name in both})
    torch.testing.assert_close(mixed[:1], predicted(conditioned, one)[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1:], predicted(conditioned, two)[1:], atol=1e-5, rtol=1e-5)


def test_further_timesteps_append_their_tokens() -> None:
    scheduler = DDIMScheduler()
    conditioned = model()
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    config = AdapterConfig(further_timesteps=(150,))
    assert config.timesteps == (1, 150)
    cache = cache_clean(conditioned.unet, conditioned.sites, scheduler, config, LATENT, noise, TEXT[:1])
    for part, timestep in enumerate((1, 150)):
        noisy = noise_reference(scheduler, LATENT, noise, timestep)
        alone = cache_reference(conditioned.unet, conditioned.sites, noisy, timestep, TEXT[:1])
        for name, tokens in alone.items():
            count = tokens.shape[1]
            torch.testing.assert_close(
                cache[name][:, part * count : (part + 1) * count], tokens, rtol=0, atol=0
            )


def test_the_config_keeps_them() -> None:
    config = AdapterConfig(further_timesteps=(150, 300))
    assert AdapterConfig.from_json(config.to_json()) == config
    assert AdapterConfig.from_json('{"cache_timestep": 1}').further_timesteps == ()
    for further, message in (
        ("[-1]", "give 0 or more"),
        ("[1.5]", "whole number"),
        ("3", "list of timesteps"),
    ):
        with pytest.raises(AdapterError, match=message):
            AdapterConfig.from_json(f'{{"further_timesteps": {further}}}')


def test_they_are_not_exported() -> None:
    unet = tiny_unet(**MINI_SHAPED)
    check_exportable(ConditionedUNet(unet, AdapterConfig()))
    with pytest.raises(ExportError, match="cache at several timesteps"):
        check_exportable(ConditionedUNet(unet, AdapterConfig(further_timesteps=(150,))))
