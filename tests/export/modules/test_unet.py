"""The graph modules in PyTorch (plain attention) against the conditioned UNet they are folded from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import MINI_SHAPED, SD15_SHAPED, TEXT_WIDTH, randomise_adapters, tiny_unet
from torch.nn import functional

from dreamcache.export.errors import ExportError
from dreamcache.export.modules.attention import attend, check_attention
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph
from dreamcache.models.caching import cache_reference
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig, SiteSet

VARIANTS: dict[str, dict[str, Any]] = {
    "sd15": SD15_SHAPED,
    "sd21": {**SD15_SHAPED, "attention_head_dim": (2, 4, 6, 6), "use_linear_projection": True},
    "deep": {**MINI_SHAPED, "transformer_layers_per_block": 2},
    "scale and shift": {**MINI_SHAPED, "resnet_time_scale_shift": "scale_shift"},
    "own text width": {**MINI_SHAPED, "encoder_hid_dim": TEXT_WIDTH, "cross_attention_dim": 24},
}


def conditioned(changes: dict[str, Any], sites: SiteSet = "middle+decoder") -> ConditionedUNet:
    config = AdapterConfig(sites=sites, cache_timestep=7)
    return randomise_adapters(ConditionedUNet(tiny_unet(**changes), config))


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_both_graphs_compute_what_pytorch_does(variant: str) -> None:
    torch.manual_seed(0)
    model = conditioned(VARIANTS[variant])
    text = torch.randn(1, 7, TEXT_WIDTH)
    latent = torch.randn(1, 4, 8, 8)
    cache = cache_reference(model.unet, model.sites, latent, 7, text)
    received = CachingGraph(model, text, "plain")(latent)
    expected = [
        projection(cache[site.name])
        for site in model.sites
        for projection in (model.adapter(site.name).to_k, model.adapter(site.name).to_v)
    ]
    # float32: the sums run in another order.
    torch.testing.assert_close(list(received), expected, atol=1e-5, rtol=1e-4)

    noisy, prompts = torch.randn(3, 4, 8, 8), torch.randn(3, 7, TEXT_WIDTH)
    timestep, strength = torch.tensor([1.0, 500.0, 999.0]), torch.tensor([0.0, 1.0, 0.5])
    graph = DenoiserGraph(model, "plain")
    prediction, _ = graph(noisy, timestep, prompts, strength, *received)
    torch.testing.assert_close(
        prediction, model(noisy, timestep, prompts, cache, strength), atol=1e-5, rtol=1e-4
    )
    stock = model.unet(noisy, timestep, prompts).sample
    torch.testing.assert_close(prediction[:1], stock[:1], atol=1e-5, rtol=1e-4)
    assert (prediction[1] - stock[1]).abs().max() > 1e-3
    other = [tensor.flip(1) * 0.5 for tensor in received]
    off = torch.zeros(3)
    assert torch.equal(
        graph(noisy, timestep, prompts, off, *received)[0], graph(noisy, timestep, prompts, off, *other)[0]
    )
    assert not torch.equal(graph(noisy, timestep, prompts, strength, *other)[0][1], prediction[1])


@torch.no_grad()
def test_the_caching_graph_leaves_the_unet_as_it_was() -> None:
    model = conditioned(MINI_SHAPED)
    latent, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_WIDTH)
    before = model.unet(latent, 500, text).sample
    graph = CachingGraph(model, text, "plain")
    assert torch.equal(model.unet(latent, 500, text).sample, before)
    assert graph.unet.conv_in.weight is model.unet.conv_in.weight


@pytest.mark.parametrize("sites", ["middle", "encoder", "all"])
@torch.no_grad()
def test_other_site_sets_are_exported_too(sites: SiteSet) -> None:
    model = conditioned(MINI_SHAPED, sites)
    latent, text = torch.randn(1, 4, 8, 8), torch.randn(1, 7, TEXT_WIDTH)
    cache = cache_reference(model.unet, model.sites, latent, 7, text)
    keys_and_values = CachingGraph(model, text, "plain")(latent)
    one = torch.ones(1)
    torch.testing.assert_close(
        DenoiserGraph(model, "plain")(latent, 300 * one, text, one, *keys_and_values)[0],
        model(latent, 300 * one, text, cache),
        atol=1e-5,
        rtol=1e-4,
    )


def test_what_the_graphs_cannot_express_is_refused() -> None:
    summed = ConditionedUNet(tiny_unet(**MINI_SHAPED), AdapterConfig("spatial_sum"))
    with pytest.raises(ExportError, match="spatial_sum"):
        DenoiserGraph(summed, "plain")
    model = conditioned(MINI_SHAPED)
    attention = model.unet.mid_block.attentions[0].transformer_blocks[0].attn1
    attention.residual_connection = True
    with pytest.raises(ExportError, match="residual_connection"):
        check_attention("mid_block", attention)


def test_plain_attention_is_scaled_dot_product_attention() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 5, 12), torch.randn(1, 7, 12), torch.randn(1, 7, 12)

    def split(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.expand(3, -1, -1).reshape(3, -1, 4, 3).transpose(1, 2)

    expected = functional.scaled_dot_product_attention(split(query), split(key), split(value))
    expected = expected.transpose(1, 2).reshape(3, 5, 12)
    torch.testing.assert_close(attend(query, key, value, 4, "plain"), expected, atol=1e-6, rtol=1e-5)
    own = attend(query, key.expand(3, -1, -1), value.expand(3, -1, -1), 4, "plain")
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(attend(query, key, value, 2, "plain"), expected, atol=1e-3)
