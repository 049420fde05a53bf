"""The site rule: the paper's five sites on SD 1.5 and 2.1, and what it does elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import MINI_SHAPED, tiny_unet

from dreamcache.models.bases.architectures import UNET_CONFIGS
from dreamcache.models.checkpoint import adapter_state
from dreamcache.models.conditioned import ConditionedUNet
from dreamcache.models.config import AdapterConfig, SiteSet
from dreamcache.models.errors import AdapterError
from dreamcache.models.walk.sites import find_sites

PAPER_SITES = [
    ("mid_block.attentions.0", 1280),
    ("up_blocks.1.attentions.1", 1280),
    ("up_blocks.2.attentions.0", 640),
    ("up_blocks.2.attentions.2", 640),
    ("up_blocks.3.attentions.1", 320),
]


@pytest.mark.parametrize("name", ["sd15", "sd21"])
def test_stable_diffusion_has_the_papers_sites_and_parameter_count(name: str) -> None:
    with torch.device("meta"):
        conditioned = ConditionedUNet(UNet2DConditionModel(**UNET_CONFIGS[name]))
    assert [(site.name, site.width) for site in conditioned.sites] == PAPER_SITES
    assert sum(parameter.numel() for parameter in conditioned.adapter_parameters()) == 25_207_040
    assert all(parameter.requires_grad for parameter in conditioned.adapter_parameters())
    assert not any(parameter.requires_grad for parameter in conditioned.unet.parameters())


def test_saved_keys_are_pinned() -> None:
    keys = sorted(adapter_state(ConditionedUNet(tiny_unet())))
    per_site = ["fuse.bias", "fuse.weight", "norm.bias", "norm.weight", "to_k.weight", "to_out.bias"]
    per_site += ["to_out.weight", "to_q.weight", "to_v.weight"]
    assert keys == sorted(f"{site}.{name}" for site, _ in PAPER_SITES for name in per_site)


@pytest.mark.parametrize(
    ("site_set", "expected"),
    [
        ("middle", ["mid_block.attentions.0"]),
        ("decoder", [name for name, _ in PAPER_SITES[1:]]),
        (
            "encoder",
            ["down_blocks.0.attentions.0", "down_blocks.1.attentions.0", "down_blocks.2.attentions.0"],
        ),
    ],
)
def test_site_sets_of_the_ablation(site_set: SiteSet, expected: list[str]) -> None:
    assert [site.name for site in find_sites(tiny_unet(), site_set)] == expected


def test_all_is_encoder_middle_decoder_in_order_of_execution() -> None:
    unet = tiny_unet()
    assert find_sites(unet, "all") == find_sites(unet, "encoder") + find_sites(unet)


def test_without_a_middle_block_the_decoder_is_left() -> None:
    unet = tiny_unet(mid_block_type=None)
    assert find_sites(unet) == find_sites(unet, "decoder")
    with pytest.raises(AdapterError, match="taps nothing"):
        find_sites(unet, "middle")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_class_embeds": 10}, "class labels"),
        ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block is a UNetMidBlock2DSimpleCrossAttn"),
        ({"only_cross_attention": True}, "self-attention"),
        ({"dual_cross_attention": True}, "dual_cross_attention"),
    ],
)
def test_unets_that_cannot_be_walked_are_refused(changes: dict[str, Any], message: str) -> None:
    unet = tiny_unet(**{**MINI_SHAPED, **changes})
    with pytest.raises(AdapterError, match=message):
        find_sites(unet)


@pytest.mark.parametrize("config", [{"fusion": "sum"}, {"sites": "up"}, {"cache_timestep": -1}])
def test_config_refuses_unknown_choices(config: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match=next(iter(config))):
        AdapterConfig(**config)


def test_config_round_trip() -> None:
    config = AdapterConfig("decoupled", "all", 150, "a photo")
    assert AdapterConfig.from_json(config.to_json()) == config
    with pytest.raises(AdapterError, match="colour"):
        AdapterConfig.from_json('{"colour": 1}')
    with pytest.raises(AdapterError, match="not JSON"):
        AdapterConfig.from_json("{")
