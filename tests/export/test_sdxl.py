"""SDXL's UNet: the site rule at full size, and the conditions of the caching prompt."""

from __future__ import annotations

from dataclasses import astuple

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import POOLED, SDXL_SHAPED, randomise_adapters, tiny_unet
from torch import Tensor

from dreamcache.export.modules.unet import CachingGraph
from dreamcache.models.bases.architectures import UNET_CONFIGS
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig

TEXT = SDXL_SHAPED["cross_attention_dim"]
SDXL_SITES = [
    ("mid_block.attentions.0", 1280, 10),
    ("up_blocks.0.attentions.1", 1280, 10),
    ("up_blocks.1.attentions.0", 640, 2),
    ("up_blocks.1.attentions.2", 640, 2),
]


def conditions(batch: int, seed: int) -> dict[str, Tensor]:
    """A pooled prompt [b, p] and sizes, crops and target [b, 6] in pixels."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]).expand(batch, -1)
    return {"text_embeds": torch.randn(batch, POOLED, generator=generator), "time_ids": sizes.contiguous()}


@pytest.fixture(scope="module", name="model")
def _model() -> ConditionedUNet:
    config = AdapterConfig(cache_timestep=7)
    return randomise_adapters(ConditionedUNet(tiny_unet(**SDXL_SHAPED), config))


def test_the_site_rule_at_full_size() -> None:
    with torch.device("meta"):
        model = ConditionedUNet(UNet2DConditionModel(**UNET_CONFIGS["sdxl"]))
    blocks = [len(model.unet.get_submodule(site.name).transformer_blocks) for site in model.sites]
    assert [(*site, n) for site, n in zip(map(astuple, model.sites), blocks, strict=True)] == SDXL_SITES
    billions = sum(parameter.numel() for parameter in model.unet.parameters()) / 1e9
    assert billions == pytest.approx(2.567, abs=1e-3)
    # 6d² + 4d at each site, for the first block of each alone.
    adapters = sum(parameter.numel() for parameter in model.adapter_parameters())
    assert adapters == sum(6 * d * d + 4 * d for _, d, _ in SDXL_SITES)


@torch.no_grad()
def test_the_caching_prompt_has_conditions_of_its_own(model: ConditionedUNet) -> None:
    null, reference = torch.randn(1, 7, TEXT), torch.randn(1, 4, 8, 8)
    one, other = (CachingGraph(model, null, "plain", added=conditions(1, seed))(reference) for seed in (1, 2))
    assert max((a - b).abs().max() for a, b in zip(one, other, strict=True)) > 1e-3
    with pytest.raises(ValueError, match="text_embeds"):
        CachingGraph(model, null, "plain")
