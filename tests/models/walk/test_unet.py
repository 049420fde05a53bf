"""The walk equals diffusers bit for bit, and the conditioned UNet behaves as the paper's formulas say."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_models import MINI_SHAPED, SD15_SHAPED, TEXT_WIDTH, randomise_adapters, tiny_unet
from torch import Tensor

from dreamcache.models.adapter import ConditioningAdapter
from dreamcache.models.caching import cache_reference, noise_reference
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig, Fusion
from dreamcache.models.errors import AdapterError
from dreamcache.models.walk.unet import walk

VARIANTS: dict[str, dict[str, Any]] = {
    "sd15": SD15_SHAPED,
    "sd21": {**SD15_SHAPED, "attention_head_dim": (2, 4, 6, 6), "use_linear_projection": True},
    "mini": MINI_SHAPED,
    "no middle block": {**MINI_SHAPED, "mid_block_type": None},
    "a level without attention": {
        **MINI_SHAPED,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "deep transformers": {
        **MINI_SHAPED,
        "transformer_layers_per_block": 2,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
    "own text width": {**MINI_SHAPED, "encoder_hid_dim": TEXT_WIDTH, "cross_attention_dim": 24},
    "centred": {
        **MINI_SHAPED,
        "center_input_sample": True,
        "layers_per_block": 1,
        "time_embedding_act_fn": "silu",
    },
}


def inputs(batch: int = 2, side: int = 8, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """latent [b,4,side,side], timestep [b], text [b,7,c]."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(batch, 4, side, side, generator=generator)
    return latent, torch.tensor([601, 44])[:batch], torch.randn(batch, 7, TEXT_WIDTH, generator=generator)


def conditioned(
    fusion: Fusion = "spatial_concat", randomised: bool = True, **changes: Any
) -> ConditionedUNet:
    model = ConditionedUNet(tiny_unet(**{**MINI_SHAPED, **changes}), AdapterConfig(fusion))
    return randomise_adapters(model) if randomised else model


def cached(model: ConditionedUNet, seed: int = 9, batch: int = 1) -> dict[str, Tensor]:
    latent, _, text = inputs(batch, seed=seed)
    return cache_reference(model.unet, model.sites, latent, 1, text[:1])


@pytest.mark.parametrize("side", [8, 10])
@pytest.mark.parametrize("variant", VARIANTS)
def test_walk_equals_diffusers_bit_for_bit(variant: str, side: int) -> None:
    unet = tiny_unet(**VARIANTS[variant])
    latent, timestep, text = inputs(side=side)
    added = None
    if unet.config.addition_embed_type == "text_time":
        added = {"text_embeds": torch.ones(2, 16), "time_ids": torch.arange(12.0).reshape(2, 6)}
    with torch.no_grad():
        expected = unet(latent, timestep, text, added_cond_kwargs=added).sample
        assert torch.equal(walk(unet, latent, timestep, text, added=added), expected)
        assert torch.equal(ConditionedUNet(unet)(latent, timestep, text, None, added=added), expected)
        assert not torch.equal(walk(unet, latent, timestep + 1, text, added=added), expected)


@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("variant", ["sd15", "sd21", "mini"])
def test_untrained_adapters_are_the_base_model(fusion: Fusion, variant: str) -> None:
    model = conditioned(fusion, randomised=False, **VARIANTS[variant])
    latent, timestep, text = inputs()
    with torch.no_grad():
        stock = model(latent, timestep, text)
        torch.testing.assert_close(model(latent, timestep, text, cached(model)), stock, atol=1e-6, rtol=1e-5)
        randomise_adapters(model)
        moved = model(latent, timestep, text, cached(model))
    assert (moved - stock).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_strength_zero_is_the_stock_model_and_mixes_by_sample(fusion: Fusion) -> None:
    model = conditioned(fusion)
    latent, timestep, text = inputs()
    cache = cached(model)
    with torch.no_grad():
        stock, full = model(latent, timestep, text), model(latent, timestep, text, cache)
        mixed = model(latent, timestep, text, cache, torch.tensor([0.0, 1.0]))
        half = model(latent, timestep, text, cache, torch.full((2,), 0.5))
    # atol: the convolutions round differently once the block is written out.
    torch.testing.assert_close(mixed[0], stock[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mixed[1], full[1], atol=1e-6, rtol=1e-5)
    assert (half - stock).abs().max() > 1e-4
    assert (half - full).abs().max() > 1e-4


def test_a_batched_cache_serves_each_sample_its_own_reference() -> None:
    model = conditioned()
    latent, timestep, text = inputs()
    both = cached(model, batch=2)
    with torch.no_grad():
        batched = model(latent, timestep, text, both)
        for i in range(2):
            own = {site: tokens[i : i + 1] for site, tokens in both.items()}
            alone = model(latent[i : i + 1], timestep[i : i + 1], text[i : i + 1], own)
            torch.testing.assert_close(batched[i : i + 1], alone, atol=1e-5, rtol=1e-4)
        swapped = model(latent, timestep, text, {site: tokens.flip(0) for site, tokens in both.items()})
    assert (swapped - batched).abs().max() > 1e-4


def test_the_cache_is_what_enters_the_tapped_blocks() -> None:
    model = conditioned()
    latent, _, text = inputs(1)
    seen: dict[str, Tensor] = {}
    hooks = [
        model.unet.get_submodule(site.name).register_forward_pre_hook(
            lambda _, args, name=site.name: seen.update({name: args[0].flatten(2).transpose(1, 2)})
        )
        for site in model.sites
    ]
    with torch.no_grad():
        model.unet(latent, 1, text)
    for hook in hooks:
        hook.remove()
    cache = cache_reference(model.unet, model.sites, latent, 1, text)
    assert list(cache) == [site.name for site in model.sites]
    assert all(torch.equal(cache[name], seen[name]) for name in seen)


def test_the_adapter_computes_the_papers_formula() -> None:
    torch.manual_seed(0)
    adapter, heads, d = ConditioningAdapter(12, 3), 3, 12
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    x, self_attention, c = torch.randn(2, 5, d), torch.randn(2, 5, d), torch.randn(1, 7, d)
    normed = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    q = ((normed * adapter.norm.weight + adapter.norm.bias) @ adapter.to_q.weight.T).reshape(2, 5, heads, 4)
    k = (c @ adapter.to_k.weight.T).reshape(7, heads, 4)
    v = (c @ adapter.to_v.weight.T).reshape(7, heads, 4)
    weights = (torch.einsum("bnhe,mhe->bhnm", q, k) / 4**0.5).softmax(-1)
    m = (
        torch.einsum("bhnm,mhe->bnhe", weights, v).reshape(2, 5, d) @ adapter.to_out.weight.T
        + adapter.to_out.bias
    )
    expected = torch.cat([self_attention, m], -1) @ adapter.fuse.weight.T + adapter.fuse.bias
    torch.testing.assert_close(adapter(x, self_attention, c), expected, atol=1e-5, rtol=1e-4)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == 6 * d * d + 4 * d


def test_only_adapters_receive_gradients() -> None:
    model = conditioned()
    latent, timestep, text = inputs()
    model(latent, timestep, text, cached(model)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.adapter_parameters())
    assert all(parameter.grad is None for parameter in model.unet.parameters())


def test_a_cache_that_does_not_fit_is_refused() -> None:
    model = conditioned()
    cache = cached(model)
    latent, timestep, text = inputs()
    with pytest.raises(AdapterError, match="sites"):
        model(latent, timestep, text, dict(list(cache.items())[1:]))
    name = next(iter(cache))
    with pytest.raises(AdapterError, match=name):
        model(latent, timestep, text, {**cache, name: cache[name][..., :-1]})


def test_noise_reference_is_the_schedulers_own() -> None:
    scheduler = DDIMScheduler(beta_schedule="scaled_linear")
    latent, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    expected = scheduler.add_noise(latent, noise, torch.tensor([150]))
    torch.testing.assert_close(noise_reference(scheduler, latent, noise, 150), expected, atol=1e-6, rtol=1e-6)
    with pytest.raises(AdapterError, match="0 to 999"):
        noise_reference(scheduler, latent, noise, 1000)
