"""Channels first and head by head: the same numbers as tokens last, for both graphs."""

from __future__ import annotations

import pytest
import torch
from tiny_models import MINI_SHAPED, TEXT_WIDTH, randomise_adapters, tiny_unet
from torch import Tensor, nn

from dreamcache.export.modules.attention import attend
from dreamcache.export.modules.token_layouts import ChannelNorm, ChannelsFirst, PointwiseConvolution
from dreamcache.export.modules.unet import CachingGraph, DenoiserGraph
from dreamcache.export.options import Approximations
from dreamcache.models.conditioned import ConditionedUNet

TOLERANCE = 2e-5


@torch.no_grad()
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("linear", [False, True])
def test_both_graphs_are_the_same_in_either_layout(pool: int, linear: bool) -> None:
    model = randomise_adapters(ConditionedUNet(tiny_unet(**MINI_SHAPED, use_linear_projection=linear)))
    torch.manual_seed(0)
    text, latents = torch.randn(2, 7, TEXT_WIDTH), torch.randn(2, 4, 8, 8)
    timestep, strength = torch.full((2,), 300.0), torch.tensor([1.0, 0.5])

    def run(kind: str, reference: Tensor) -> tuple[Tensor, ...]:
        cache = CachingGraph(model, text[:1], kind, Approximations(pool))(reference)  # type: ignore[arg-type]
        denoiser = DenoiserGraph(model, kind, Approximations(pool))  # type: ignore[arg-type]
        return (*cache, *denoiser(latents, timestep, text, strength, *cache))

    expected, received = (run(kind, latents[:1]) for kind in ("plain", "split_einsum"))
    for one, other in zip(expected, received, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= TOLERANCE * one.abs().max()
    # Another reference would be noticed.
    changed = run("split_einsum", latents[1:])
    assert (changed[-2] - expected[-2]).abs().max() > 100 * TOLERANCE * expected[-2].abs().max()


@torch.no_grad()
def test_layers_on_channels_first() -> None:
    torch.manual_seed(0)
    layout, tokens = ChannelsFirst(), torch.randn(2, 5, 12)
    assert torch.equal(layout.given(layout.read(tokens)), tokens)
    linear, norm = nn.Linear(12, 7), nn.LayerNorm(12, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    for layer, copied in ((linear, PointwiseConvolution(linear)), (norm, ChannelNorm(norm))):
        found = layout.given(copied(layout.read(tokens)))
        torch.testing.assert_close(found, layer(tokens), atol=1e-5, rtol=1e-5)
    query, key = torch.randn(2, 5, 12), torch.randn(1, 9, 12)
    found = attend(layout.read(query), layout.read(key), layout.read(key), 3, "split_einsum")
    expected = attend(query, key, key, 3, "plain")
    torch.testing.assert_close(layout.given(found), expected, atol=1e-5, rtol=1e-5)
    other = attend(layout.read(query), layout.read(key), layout.read(key), 4, "split_einsum")
    assert (layout.given(other) - expected).abs().max() > 0.01
